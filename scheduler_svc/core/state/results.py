"""What the worker tells the core, and what the core tells the service: plain messages.

Mirrors StepResult and Hello in protos/qllm/v1/control.proto.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from scheduler_svc.core.beams.search import Candidate
from scheduler_svc.core.state.cursor import Cursor
from scheduler_svc.core.state.ids import BatchId, CommandId, SeqId
from scheduler_svc.core.state.prompt_scores import PromptScores, ScoredTokens
from scheduler_svc.core.state.sequence import FinishReason, Usage


@dataclass(frozen=True, slots=True)
class WorkTiming:
    """Work of each kind, summed over a step, and the nanoseconds that it took; see control.proto for each field."""

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


@dataclass(frozen=True, slots=True)
class WorkerModel:
    """The worker's model in numbers, as far as scheduling needs them.

    Attributes:
        experts_by_layer: Experts of each decoder layer; 0 for a layer without a mixture.
        num_experts_per_token: Experts chosen for each token.
        block_size: Tokens in one cache block.
        num_blocks: Device cache blocks.
        num_host_blocks: Host cache blocks for offloaded sequences.
        max_model_len: Longest prompt plus output in tokens.
        computes_on_cpu: Whether it computes on cores, from which scheduling then takes time.
        num_disk_blocks: Cache blocks on disk for offloaded sequences.
        block_bytes: Bytes of one block on the device; 0: not known.
        host_block_bytes: Bytes of one block in host memory or on disk.
        state_bytes: Bytes that one sequence on the device keeps besides its blocks.
        num_states: Most sequences on the device that keep such; 0: no limit.
        no_sharing_reason: Why blocks can't be shared by sequences that begin alike; empty where they can.
    """

    experts_by_layer: tuple[int, ...]
    num_experts_per_token: int
    block_size: int
    num_blocks: int
    num_host_blocks: int
    max_model_len: int
    computes_on_cpu: bool = False
    num_disk_blocks: int = 0
    block_bytes: int = 0
    host_block_bytes: int = 0
    state_bytes: int = 0
    num_states: int = 0
    no_sharing_reason: str = ""

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return len(self.experts_by_layer)

    @property
    def max_sequence_tokens(self) -> int:
        """Most tokens that one sequence can have: the model's length, or the whole cache if that is less."""
        return min(self.max_model_len, self.num_blocks * self.block_size)


class TokenLogprob(NamedTuple):
    """A token that might have been chosen, with the natural logarithm of its probability."""

    token_id: int
    logprob: float


class SampledToken(NamedTuple):
    """One sampled token.

    Attributes:
        finish_reason: Set when the worker found the sequence's end with it.
        top: The most probable tokens at its place, if asked for.
        candidates: The best tokens, where the choice is the scheduler's, and none where rules exclude all; None: the
            token was chosen.
    """

    seq_id: SeqId
    token_id: int
    logprob: float
    finish_reason: FinishReason | None = None
    top: tuple[TokenLogprob, ...] = ()
    candidates: tuple[Candidate, ...] | None = None


@dataclass(frozen=True, slots=True)
class BatchError:
    """A batch that failed and is forgotten by the worker, with its sequences."""

    batch_id: BatchId
    seq_ids: tuple[SeqId, ...]
    message: str


@dataclass(frozen=True, slots=True)
class SequenceError:
    """A sequence that the worker could not serve and left out; the others of its batches went on.

    Attributes:
        cache_is_lost: Whether nothing is wrong but that its cache is lost, so that it can be computed again.
        rules_leave_nothing: Whether its own rules are why; the message is then for its caller alone.
    """

    seq_id: SeqId
    message: str
    cache_is_lost: bool = False
    rules_leave_nothing: bool = False


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one Advance did."""

    command_id: CommandId
    reached: Cursor
    duration_ns: int
    idle_ns: int = 0
    tokens: tuple[SampledToken, ...] = ()
    batch_errors: tuple[BatchError, ...] = ()
    timing: WorkTiming = field(default_factory=WorkTiming)
    sequence_errors: tuple[SequenceError, ...] = ()
    suspended_bytes: int = 0
    scored: tuple[ScoredTokens, ...] = ()


@dataclass(frozen=True, slots=True)
class IntegrityReport:
    """What the worker holds, and what of it contradicts itself; fields as in control.proto."""

    check_id: int
    problem: str
    num_sequences: int
    num_held_blocks: int
    num_host_blocks: int
    num_disk_blocks: int
    device_bytes: int
    state_bytes: int
    suspended_bytes: int


class TokenOutput(NamedTuple):
    """A token for the caller; `finish_reason` and `usage` are set with the last one, `top` where it was asked for."""

    seq_id: SeqId
    token_id: int
    logprob: float
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptOutput:
    """What was found of a prompt; `finish_reason` and `usage` are set where no token is to follow it."""

    seq_id: SeqId
    scores: PromptScores | None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class FailureOutput:
    """A sequence that ended because it, or its batch, failed; by its own rules, where those left no token."""

    seq_id: SeqId
    message: str
    rules_leave_nothing: bool = False


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A text that a beam search found.

    Attributes:
        logprobs: Of each token, in the model's own distribution.
        score: What it was ranked by: its summed log-probability under the request's rules, with the length penalty.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    score: float
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class HypothesesOutput:
    """The texts that a beam search found, best first, at least one; with them it ends."""

    seq_id: SeqId
    hypotheses: tuple[Hypothesis, ...]
    usage: Usage


Output = TokenOutput | PromptOutput | HypothesesOutput | FailureOutput
