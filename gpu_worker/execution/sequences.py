"""What the worker knows of sequences and batches between commands.

Plain state: it runs nothing, and knows no model and no protobuf.
"""

from collections import abc
from dataclasses import dataclass, field

import torch

from gpu_worker.cache.block_table import BlockTable
from gpu_worker.cache.span import Span
from gpu_worker.contract.commands import AddSequence, Sampling
from gpu_worker.contract.results import FinishReason, SampledToken
from gpu_worker.cursor import Cursor
from gpu_worker.machine.clock import Stretch
from gpu_worker.passes.interface import Pass
from gpu_worker.sampling.candidates import Candidates
from gpu_worker.sampling.draw import Draw
from gpu_worker.sampling.guide import Guides
from gpu_worker.sampling.rules import Rules
from gpu_worker.sampling.sampler import Choice
from gpu_worker.sampling.scoring import Scoring, Wish


@dataclass(slots=True, eq=False)
class Sequence:
    """One sequence as the worker knows it.

    Attributes:
        seq_id: The scheduler's id.
        sampling: How its tokens are chosen.
        stop_ids: Tokens that end it.
        max_tokens: Tokens that it generates in all.
        min_tokens: Tokens that must be generated before a stop token may be chosen.
        num_output_tokens: Tokens generated so far, by other workers too.
        table: Where its cache lies.
        rules: What its tokens have to keep to; None: nothing.
        last_token: The token sampled last, which the next iteration may begin with.
        finish_reason: Why it ended, None while it goes on.
        batch_id: The suspended batch that it is in, if any.
        awaits_choice: Whether its next token is one that the scheduler chooses, from candidates that it was told.
        is_dropped: Whether the scheduler gave it up.
    """

    seq_id: int
    sampling: Sampling
    stop_ids: frozenset[int]
    max_tokens: int
    min_tokens: int
    num_output_tokens: int
    table: BlockTable
    rules: Rules | None = None
    last_token: int | None = None
    finish_reason: FinishReason | None = None
    batch_id: int | None = None
    awaits_choice: bool = False
    is_dropped: bool = False

    @classmethod
    def of(cls, add: AddSequence, table: BlockTable, guides: Guides, device: torch.device) -> "Sequence":
        """Returns the sequence that a command makes known; its logits will be on that device."""
        stop_ids = frozenset(add.stop_token_ids)
        limits = add.max_tokens, add.min_tokens, add.num_output_tokens
        return cls(add.seq_id, add.sampling, stop_ids, *limits, table, Rules.of(add, guides, device))

    @property
    def num_cached(self) -> int:
        """Tokens of finished iterations that are cached."""
        return self.table.num_cached

    def next_draw(self) -> Draw:
        """How its next token is to be chosen."""
        early = self.num_output_tokens < self.min_tokens and not (self.rules is not None and self.rules.is_whole)
        banned_ids = tuple(sorted(self.stop_ids)) if early else ()
        return Draw(self.sampling, self.num_output_tokens, banned_ids, self.rules)

    def accept(self, choice: Choice | Candidates) -> SampledToken:
        """Takes a sampled token in and says whether the sequence ends with it; of candidates none is taken in."""
        if isinstance(choice, Candidates):
            self.awaits_choice = True
            return SampledToken.undecided(self.seq_id, choice.tokens)
        token_id, logprob, top = choice
        self.last_token = token_id
        self._append(token_id)
        self.finish_reason = FinishReason.of(token_id, self.stop_ids, self.num_output_tokens, self.max_tokens)
        return SampledToken(self.seq_id, token_id, logprob, self.finish_reason, top)

    def begins_with(self, token_ids: abc.Sequence[int]) -> None:
        """Takes in what an iteration computes: a token that was chosen elsewhere, if one is awaited."""
        if self.awaits_choice:
            self.awaits_choice = False
            self._append(token_ids[0])

    def _append(self, token_id: int) -> None:
        self.num_output_tokens += 1
        if self.rules is not None:
            self.rules.accept(token_id)


@dataclass(slots=True, eq=False)
class Member:
    """A sequence in a batch.

    Attributes:
        sequence: The sequence.
        span: Its part of the pass.
        samples: Whether it samples a token when the iteration ends.
        scored_token_ids: The tokens behind its first ones, whose probabilities are told then.
        also_sampled: Sequences that have their first token from the same logits.
    """

    sequence: Sequence
    span: Span
    samples: bool
    scored_token_ids: abc.Sequence[int] = ()
    also_sampled: abc.Sequence[Sequence] = ()

    @property
    def wish(self) -> Wish:
        """What of it is to be scored."""
        sequence = self.sequence
        return Wish(sequence.seq_id, self.span, self.scored_token_ids, sequence.sampling.num_prompt_alternatives)

    @property
    def samplers(self) -> list[Sequence]:
        """The sequences that have a token from its logits and are still there; none if its own is not."""
        return [] if self.span.dropped else [self.sequence, *(one for one in self.also_sampled if not one.is_dropped)]


@dataclass(slots=True, eq=False)
class Batch:
    """An iteration under way.

    Attributes:
        batch_id: The scheduler's id.
        members: Its sequences, those that were dropped meanwhile included.
        forward_pass: Where it stands.
        scoring: What it tells of prompts' tokens; None: nothing.
        spells: What it took so far of the attention stage that it stands inside, which is told where that ends.
        head_rows_told: Rows that went through the head, as far as that was told.
    """

    batch_id: int
    members: list[Member]
    forward_pass: Pass = field(repr=False)
    scoring: Scoring | None = None
    spells: list[Stretch] = field(default_factory=list, repr=False)
    head_rows_told: int = 0

    @property
    def cursor(self) -> Cursor:
        """Where it stands."""
        return self.forward_pass.cursor

    @property
    def num_head_rows(self) -> int:
        """Rows that have gone through the head, once it stands there: those that are sampled from, or one, go first."""
        num_sampled = max(1, sum(member.samples for member in self.members))
        return num_sampled + (0 if self.scoring is None else self.scoring.num_rows)

    @property
    def live_members(self) -> list[Member]:
        """Its sequences that were not dropped."""
        return [member for member in self.members if not member.span.dropped]

    @property
    def live_seq_ids(self) -> list[int]:
        """Those sequences' ids."""
        return [member.sequence.seq_id for member in self.live_members]
