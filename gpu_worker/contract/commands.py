"""What the scheduler tells the worker: plain messages, one class a command.

How they travel is the channel's business, and what they are checked against that of `checks`. Mirrors StepCommand in
protos/qllm/v1/control.proto.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from gpu_worker.cursor import Cursor


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the tokens of a sequence are chosen.

    Attributes:
        temperature: Divides the logits; 0 takes the most probable token.
        top_k: Keeps the k most probable tokens; 0 keeps all.
        top_p: Keeps the smallest set of tokens whose probability reaches this; 1 keeps all.
        min_p: Keeps tokens at least this fraction as probable as the most probable one; 0 keeps all.
        seed: Makes the draws repeatable.
        repetition_penalty: Divides what is above 0 of the logits of tokens that prompt or output have, and multiplies
            what is below; 1 leaves them.
        presence_penalty: Is taken from the logits of tokens that the output has.
        frequency_penalty: Is taken from them as often as the output has each.
        logit_bias: Tokens with what is added to their logits.
        allowed_token_ids: The only tokens that may be chosen; none: all may.
        bad_words: Tokens that must not follow one another; each has at least one.
        typical_p: Keeps the most typical tokens whose probability reaches this; 1 keeps all.
        num_top_logprobs: So many of the most probable tokens are told with each one.
        num_prompt_alternatives: So many are told with each token of the prompt that is scored.
        grammar: What the text is kept to, as llguidance reads it; empty: nothing.
        num_candidates: So many of the best tokens are told, and none is chosen: the scheduler does that; 0: one is.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Sequence[tuple[int, float]] = ()
    allowed_token_ids: Sequence[int] = ()
    bad_words: Sequence[Sequence[int]] = ()
    typical_p: float = 1.0
    num_top_logprobs: int = 0
    num_prompt_alternatives: int = 0
    grammar: str = ""
    num_candidates: int = 0

    @property
    def has_penalties(self) -> bool:
        """Whether tokens that were there before are less likely, or more."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def has_rules(self) -> bool:
        """Whether the logits are changed before anything is chosen from them."""
        return self.has_penalties or bool(self.logit_bias or self.allowed_token_ids or self.bad_words or self.grammar)

    @property
    def looks_back(self) -> bool:
        """Whether the choice depends on tokens that were there before."""
        return self.has_penalties or any(len(word) > 1 for word in self.bad_words)


class Tier(Enum):
    """Where the cache of an offloaded sequence lies."""

    HOST = auto()
    DISK = auto()


@dataclass(frozen=True, slots=True)
class AddSequence:
    """Makes a sequence known, with no cache but what others computed of the same tokens.

    Attributes:
        seq_id: The scheduler's id, which is not known yet.
        sampling: How tokens are chosen.
        stop_token_ids: Tokens that end it.
        max_tokens: Tokens that it generates in all.
        min_tokens: Tokens before which no stop token is chosen.
        num_output_tokens: Tokens that it generated before this worker knew it.
        shared_block_ids: Full blocks that hold its first tokens already.
        prompt_token_ids: The different tokens of its prompt, where the choice depends on them.
        output_token_ids: The tokens that it generated before, in order, where the choice depends on them.
    """

    seq_id: int
    sampling: Sampling
    stop_token_ids: Sequence[int]
    max_tokens: int
    min_tokens: int = 0
    num_output_tokens: int = 0
    shared_block_ids: Sequence[int] = ()
    prompt_token_ids: Sequence[int] = ()
    output_token_ids: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class ForkSequence:
    """Gives a sequence that holds nothing what another has cached; a last block that is not full is copied.

    Which tokens those are, and what it has besides, it was made known with, or sampled beside the other.
    """

    seq_id: int
    parent_seq_id: int
    new_block_ids: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class DropSequence:
    """Forgets a sequence; its blocks may be used by the next command, even where a suspended batch holds it."""

    seq_id: int


@dataclass(frozen=True, slots=True)
class OffloadSequence:
    """Moves a sequence's cache off the device; blocks that it held alone may be used by the next command."""

    seq_id: int
    tier: Tier = Tier.HOST


@dataclass(frozen=True, slots=True)
class RestoreSequence:
    """Moves an offloaded sequence's cache back, into as many blocks as it had; the first few hold it already."""

    seq_id: int
    block_ids: Sequence[int]
    num_shared_blocks: int = 0


class BatchItem(NamedTuple):
    """One sequence's part in an iteration; there are hundreds in each.

    Attributes:
        seq_id: The sequence.
        num_tokens: Tokens to compute.
        token_ids: The tokens; empty when it is the one that was sampled last.
        first_position: Rows cached before, which is the position of the first token.
        new_block_ids: Blocks added to the end of the sequence's table.
        samples: Whether a next token is sampled at the end.
        scored_token_ids: The tokens that follow its first ones, whose probabilities are told.
        also_sampled_ids: Sequences that hold nothing and have their first token from the same logits, each in its own
            way; the tokens after that come from iterations of their own.
    """

    seq_id: int
    num_tokens: int
    token_ids: Sequence[int] = ()
    first_position: int = 0
    new_block_ids: Sequence[int] = ()
    samples: bool = True
    scored_token_ids: Sequence[int] = ()
    also_sampled_ids: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class StartBatch:
    """Begins an iteration of a batch, without running any of it."""

    batch_id: int
    items: Sequence[BatchItem]


@dataclass(frozen=True, slots=True)
class DropBatch:
    """Forgets a suspended batch, or one that failed; its sequences stay known."""

    batch_id: int


class PreemptAt(Enum):
    """Places where an Advance may be cut short."""

    LAYER = auto()
    EXPERT = auto()


@dataclass(frozen=True, slots=True)
class Advance:
    """Runs batches up to a cursor, jointly where they stand together; Preempt may cut it short at `preempt_at`."""

    command_id: int
    batch_ids: Sequence[int]
    until: Cursor
    preempt_at: PreemptAt | None = None


@dataclass(frozen=True, slots=True)
class CheckIntegrity:
    """Asks whether the books of memory agree with themselves, and what is held; answered by a report of its own."""

    check_id: int


Command = AddSequence | ForkSequence | DropSequence | OffloadSequence | RestoreSequence | StartBatch | DropBatch
"""Commands that take no time of the model; Advance is the one that does."""
