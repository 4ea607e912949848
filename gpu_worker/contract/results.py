"""What the worker tells the scheduler about an Advance: plain messages. Mirrors StepResult of control.proto."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import NamedTuple

from gpu_worker.cursor import Cursor


class FinishReason(IntEnum):
    """Why a sequence ended; the numbers are those of inference.proto."""

    STOP = 1
    LENGTH = 2

    @classmethod
    def of(cls, token_id: int, stop_ids: Set[int], num_output_tokens: int, max_tokens: int) -> "FinishReason | None":
        """Why a sequence ends with a token, its own last one included in the count; None if it goes on."""
        if token_id in stop_ids:
            return cls.STOP
        return cls.LENGTH if num_output_tokens >= max_tokens else None


class TokenLogprob(NamedTuple):
    """A token that might have been chosen, with its probability's natural logarithm."""

    token_id: int
    logprob: float


class Candidate(NamedTuple):
    """A token that may be chosen next.

    Attributes:
        token_id: The token.
        logprob: The natural logarithm of its probability under the logits as they are.
        score: The same after the sequence's rules.
    """

    token_id: int
    logprob: float
    score: float


class SampledToken(NamedTuple):
    """One sampled token.

    Attributes:
        seq_id: Whose it is.
        token_id: The token.
        logprob: The natural logarithm of its probability.
        finish_reason: Why the sequence ends with it; None when that goes on.
        top: The most probable tokens at its place, if asked for.
        candidates: The best tokens, best first, where none was chosen, and none of them where rules exclude all; None:
            one was chosen.
    """

    seq_id: int
    token_id: int
    logprob: float
    finish_reason: FinishReason | None
    top: tuple[TokenLogprob, ...] = ()
    candidates: tuple[Candidate, ...] | None = None

    @classmethod
    def undecided(cls, seq_id: int, candidates: tuple[Candidate, ...]) -> "SampledToken":
        """Returns what leaves the choice to the scheduler; it has the first candidate's token, or 0 without any."""
        token_id, logprob = candidates[0][:2] if candidates else (0, float("-inf"))
        return cls(seq_id, token_id, logprob, None, candidates=candidates)


@dataclass(frozen=True, slots=True)
class ScoredTokens:
    """How probable tokens of one sequence were that stand side by side, each behind all those before it.

    Attributes:
        seq_id: Whose they are.
        first_position: Where the first of them stands.
        token_ids: The tokens.
        logprobs: The natural logarithm of each one's probability.
        ranks: The place of each among all tokens by probability, from 1.
        num_alternatives: So many of the most probable tokens are told at the place of each.
        alternative_ids: Those of all, end to end.
        alternative_logprobs: The natural logarithms of their probabilities.
    """

    seq_id: int
    first_position: int
    token_ids: Sequence[int]
    logprobs: Sequence[float]
    ranks: Sequence[int]
    num_alternatives: int = 0
    alternative_ids: Sequence[int] = ()
    alternative_logprobs: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class BatchError:
    """A batch that failed and is forgotten; the caches of its sequences are void, the sequences still known."""

    batch_id: int
    seq_ids: tuple[int, ...]
    message: str


@dataclass(frozen=True, slots=True)
class SequenceError:
    """A sequence that can't go on; the others of its batch do.

    Attributes:
        cache_is_lost: Whether nothing is wrong but that its cache is lost, so that it can be computed again.
        rules_leave_nothing: Whether its own rules are why; the message is then for its caller alone.
    """

    seq_id: int
    message: str
    cache_is_lost: bool = False
    rules_leave_nothing: bool = False


@dataclass(frozen=True, slots=True)
class IntegrityReport:
    """What is held, and what of it contradicts itself; fields as in control.proto."""

    check_id: int
    problem: str = ""
    num_sequences: int = 0
    num_held_blocks: int = 0
    num_host_blocks: int = 0
    num_disk_blocks: int = 0
    device_bytes: int = 0
    state_bytes: int = 0
    suspended_bytes: int = 0


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
    num_offloaded_blocks: int = 0
    offload_ns: int = 0
    num_restored_blocks: int = 0
    restore_ns: int = 0

    def add(self, other: "WorkTiming") -> None:
        """Adds other work to it."""
        for each in fields(other):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    @property
    def has_moves(self) -> bool:
        """Whether blocks were moved."""
        return bool(self.num_offloaded_blocks or self.num_restored_blocks)

    @property
    def layers_ns(self) -> int:
        """The time of attention and experts."""
        return self.attention_ns + self.expert_ns


@dataclass(frozen=True, slots=True)
class AdvanceOutcome:
    """What one advance did.

    Attributes:
        reached: Lowest cursor among the batches that did not fail; where it was to stop if all failed. Experts without
            tokens are passed over, so it may be a later expert than where it was to stop, but never a later stage. It
            is earlier where a batch replays several layers at once and was to stop among them.
        tokens: Tokens sampled by the batches whose iteration ended; those batches are forgotten.
        batch_errors: Batches that failed.
        sequence_errors: Sequences that got no token because theirs could not be sampled.
        timing: What was run.
        suspended_bytes: What all suspended passes hold now.
        scored: Tokens of prompts whose probabilities the batches whose iteration ended were asked for.
    """

    reached: Cursor
    tokens: list[SampledToken] = field(default_factory=list)
    batch_errors: list[BatchError] = field(default_factory=list)
    sequence_errors: list[SequenceError] = field(default_factory=list)
    timing: WorkTiming = field(default_factory=WorkTiming)
    suspended_bytes: int = 0
    scored: list[ScoredTokens] = field(default_factory=list)
