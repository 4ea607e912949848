"""What the worker knows of sequences and batches between commands, and what it tells about them.

Plain state: it runs nothing, and knows no model and no protobuf.

Source: arXiv 2503.09304
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from gpu_worker.cache.block_table import BlockTable
from gpu_worker.cache.span import Span
from gpu_worker.cursor import Cursor
from gpu_worker.execution.sampler import Draw, Sampling
from gpu_worker.passes.interface import Pass


class FinishReason(IntEnum):
    """Why a sequence ended; the numbers are those of inference.proto."""

    STOP = 1
    LENGTH = 2


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One sequence's part in an iteration.

    Attributes:
        seq_id: The sequence.
        num_tokens: Tokens to compute.
        token_ids: The tokens; empty when it is the one that was sampled last.
        first_position: Rows cached before, which is the position of the first token.
        new_block_ids: Blocks added to the end of the sequence's table.
        samples: Whether a next token is sampled at the end.
    """

    seq_id: int
    num_tokens: int
    token_ids: Sequence[int] = ()
    first_position: int = 0
    new_block_ids: Sequence[int] = ()
    samples: bool = True


@dataclass(frozen=True, slots=True)
class SampledToken:
    """One sampled token; finish_reason is None when the sequence goes on."""

    seq_id: int
    token_id: int
    logprob: float
    finish_reason: FinishReason | None


@dataclass(frozen=True, slots=True)
class BatchError:
    """A batch that failed and is forgotten; the caches of its sequences are void, the sequences still known."""

    batch_id: int
    seq_ids: tuple[int, ...]
    message: str


@dataclass(frozen=True, slots=True)
class SequenceError:
    """A sequence that can't go on; the others of its batch do."""

    seq_id: int
    message: str


@dataclass(slots=True)
class WorkTiming:
    """Work of each kind, summed, with the time that it took; field by field control.proto's WorkTiming."""

    num_attention_stages: int = 0
    attention_tokens: int = 0
    attention_pairs: int = 0
    attention_ns: int = 0
    num_expert_runs: int = 0
    expert_tokens: int = 0
    expert_ns: int = 0
    num_heads: int = 0
    head_rows: int = 0
    head_ns: int = 0

    @property
    def layers_ns(self) -> int:
        """The time of attention and experts."""
        return self.attention_ns + self.expert_ns


@dataclass(frozen=True, slots=True)
class AdvanceOutcome:
    """What one advance did.

    Attributes:
        reached: Lowest cursor among the batches that did not fail; where it was to stop if all failed. Experts without tokens
            are passed over, so it may be a later expert than where it was to stop, but never a later stage. It is earlier where
            a batch replays several layers at once and was to stop among them.
        tokens: Tokens sampled by the batches whose iteration ended; those batches are forgotten.
        batch_errors: Batches that failed.
        sequence_errors: Sequences that got no token because theirs could not be sampled.
        timing: What was run.
        suspended_bytes: What all suspended passes hold now.
    """

    reached: Cursor
    tokens: list[SampledToken]
    batch_errors: list[BatchError]
    sequence_errors: list[SequenceError]
    timing: WorkTiming
    suspended_bytes: int


@dataclass(slots=True, eq=False)
class TokenStream:
    """One sequence as the worker knows it.

    Attributes:
        seq_id: The scheduler's id.
        sampling: How its tokens are chosen.
        stop_ids: Tokens that end it.
        max_tokens: Tokens that it generates in all.
        min_tokens: Tokens that must be generated before a stop token may be chosen.
        num_output_tokens: Tokens generated so far, by other workers too.
        table: Where its cache lies.
        last_token: The token sampled last, which the next iteration may begin with.
        finish_reason: Why it ended, None while it goes on.
        batch_id: The suspended batch that it is in, if any.
    """

    seq_id: int
    sampling: Sampling
    stop_ids: frozenset[int]
    max_tokens: int
    min_tokens: int
    num_output_tokens: int
    table: BlockTable
    last_token: int | None = None
    finish_reason: FinishReason | None = None
    batch_id: int | None = None

    def next_draw(self) -> Draw:
        """How its next token is to be chosen."""
        early = self.num_output_tokens < self.min_tokens
        return Draw(self.sampling, self.num_output_tokens, tuple(sorted(self.stop_ids)) if early else ())

    def accept(self, token_id: int, logprob: float) -> SampledToken:
        """Takes a sampled token in and says whether the sequence ends with it."""
        self.num_output_tokens += 1
        self.last_token = token_id
        if token_id in self.stop_ids:
            self.finish_reason = FinishReason.STOP
        elif self.num_output_tokens >= self.max_tokens:
            self.finish_reason = FinishReason.LENGTH
        return SampledToken(self.seq_id, token_id, logprob, self.finish_reason)


@dataclass(slots=True, eq=False)
class Member:
    """A sequence in a batch.

    Attributes:
        stream: The sequence.
        span: Its part of the pass.
        samples: Whether it samples a token when the iteration ends.
    """

    stream: TokenStream
    span: Span
    samples: bool


@dataclass(slots=True, eq=False)
class Batch:
    """An iteration under way.

    Attributes:
        batch_id: The scheduler's id.
        members: Its sequences, those that were dropped meanwhile included.
        forward_pass: Where it stands.
    """

    batch_id: int
    members: list[Member]
    forward_pass: Pass = field(repr=False)

    @property
    def cursor(self) -> Cursor:
        """Where it stands."""
        return self.forward_pass.cursor

    @property
    def live_members(self) -> list[Member]:
        """Its sequences that were not dropped."""
        return [member for member in self.members if not member.span.dropped]
