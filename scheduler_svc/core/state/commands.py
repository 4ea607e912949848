"""What the core tells the worker, in order: plain messages, one class a command.

How they travel is the link's business. Mirrors StepCommand in protos/qllm/v1/control.proto.
"""

from dataclasses import dataclass
from typing import NamedTuple

from scheduler_svc.core.state.cursor import Cursor, PreemptAt
from scheduler_svc.core.state.ids import BatchId, BlockId, CommandId, SeqId
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, Sequence, StopConditions, Tier


@dataclass(frozen=True, slots=True)
class AddSequence:
    """Makes a sequence known to the worker.

    Attributes:
        num_output_tokens: Tokens generated before the worker knew it.
        shared_block_ids: Full blocks that hold its first tokens already.
        prompt_token_ids: The different tokens of its prompt, where the choice depends on them.
        output_token_ids: The tokens generated before, in order, where the choice depends on them.
    """

    seq_id: SeqId
    sampling: SamplingParams
    stop: StopConditions
    num_output_tokens: int
    shared_block_ids: tuple[BlockId, ...] = ()
    prompt_token_ids: tuple[int, ...] = ()
    output_token_ids: tuple[int, ...] = ()

    @classmethod
    def kept(cls, sequence: Sequence, shared_block_ids: tuple[BlockId, ...]) -> "AddSequence":
        """Returns the command for a sequence that ended, and holds these blocks without choosing another token."""
        return cls(sequence.seq_id, SamplingParams(), sequence.stop, len(sequence.output_token_ids), shared_block_ids)

    @classmethod
    def of(cls, sequence: Sequence, shared_block_ids: tuple[BlockId, ...] = ()) -> "AddSequence":
        """Returns the command for a sequence as it stands, which begins with these blocks."""
        sampling, outputs = sequence.sampling, sequence.output_token_ids
        return cls(
            sequence.seq_id,
            sampling,
            sequence.stop,
            len(outputs),
            shared_block_ids,
            tuple(sorted(set(sequence.prompt_token_ids))) if sampling.looks_at_prompt else (),
            tuple(outputs) if sampling.looks_at_output else (),
        )


@dataclass(frozen=True, slots=True)
class ForkSequence:
    """Gives a sequence that holds nothing what another has cached; a last block that is not full is copied."""

    seq_id: SeqId
    parent_seq_id: SeqId
    new_block_ids: tuple[BlockId, ...]


@dataclass(frozen=True, slots=True)
class DropSequence:
    """Forgets a sequence; its blocks may be used by the next command, even where a suspended batch holds it."""

    seq_id: SeqId


@dataclass(frozen=True, slots=True)
class OffloadSequence:
    """Moves a sequence's cache off the device; blocks that it held alone may be used by the next command."""

    seq_id: SeqId
    tier: Tier = Tier.HOST


@dataclass(frozen=True, slots=True)
class RestoreSequence:
    """Moves an offloaded sequence's cache back, into these blocks; the first few are shared and hold it already."""

    seq_id: SeqId
    block_ids: tuple[BlockId, ...]
    num_shared_blocks: int = 0


class BatchItem(NamedTuple):
    """One sequence's part in an iteration; `token_ids` is empty when it is the one token the worker sampled last.

    How probable `scored_token_ids` are, each behind one of its first tokens, is told when the iteration ends.
    Those of `also_sampled_ids`, which hold nothing yet, have their first token from the same logits.
    """

    seq_id: SeqId
    num_tokens: int
    token_ids: tuple[int, ...]
    first_position: int
    new_block_ids: tuple[BlockId, ...]
    samples: bool
    scored_token_ids: tuple[int, ...] = ()
    also_sampled_ids: tuple[SeqId, ...] = ()


@dataclass(frozen=True, slots=True)
class StartBatch:
    """Begins an iteration of a batch, without running any of it."""

    batch_id: BatchId
    request_class: RequestClass
    items: tuple[BatchItem, ...]


@dataclass(frozen=True, slots=True)
class DropBatch:
    """Forgets a suspended batch; its sequences stay known."""

    batch_id: BatchId


@dataclass(frozen=True, slots=True)
class Advance:
    """Runs batches up to a cursor, jointly where they stand together; Preempt may cut it short at `preempt_at`."""

    command_id: CommandId
    batch_ids: tuple[BatchId, ...]
    until: Cursor
    preempt_at: PreemptAt | None = None


@dataclass(frozen=True, slots=True)
class Preempt:
    """Cuts the Advances from one to another short where they allow it; acts when it arrives, ahead of what waits."""

    first_command_id: CommandId
    last_command_id: CommandId

    @property
    def command_ids(self) -> range:
        """The Advances that it concerns."""
        return range(self.first_command_id, self.last_command_id + 1)


@dataclass(frozen=True, slots=True)
class CheckIntegrity:
    """Asks whether the worker's books of memory agree with themselves, and what it holds."""

    check_id: int


Command = (
    AddSequence
    | ForkSequence
    | DropSequence
    | OffloadSequence
    | RestoreSequence
    | StartBatch
    | DropBatch
    | Advance
    | Preempt
    | CheckIntegrity
)
