"""Carries the scheduler's commands out on a Runner, command by command; it keeps nothing itself."""

from collections.abc import Sequence

from gpu_worker.contract.commands import (
    AddSequence,
    Advance,
    Command,
    DropBatch,
    DropSequence,
    ForkSequence,
    OffloadSequence,
    PreemptAt,
    RestoreSequence,
    StartBatch,
)
from gpu_worker.contract.executor import GoesOn
from gpu_worker.contract.results import AdvanceOutcome, BatchError, IntegrityReport
from gpu_worker.execution.runner import Runner


class RunnerExecutor:
    """The Executor of a model.

    Args:
        runner: The model side.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def apply(self, command: Command) -> None:
        """Carries out a command other than Advance.

        Raises:
            CommandRefused: It makes no sense; nothing has changed.
            CacheLost: A cache could not be moved; its sequence is forgotten.
        """
        match command:
            case StartBatch(batch_id, items):
                self._runner.start_batch(batch_id, items)
            case AddSequence():
                self._runner.add_sequence(command)
            case ForkSequence(seq_id, parent_seq_id, new_block_ids):
                self._runner.fork_sequence(seq_id, parent_seq_id, new_block_ids)
            case DropSequence(seq_id):
                self._runner.drop_sequence(seq_id)
            case OffloadSequence(seq_id, tier):
                self._runner.offload_sequence(seq_id, tier)
            case RestoreSequence(seq_id, block_ids, num_shared_blocks):
                self._runner.restore_sequence(seq_id, block_ids, num_shared_blocks)
            case DropBatch(batch_id):
                self._runner.drop_batch(batch_id)

    def advance(self, advance: Advance, goes_on: GoesOn) -> AdvanceOutcome:
        """Runs batches on, asking `goes_on` before each unit; raises CommandRefused, and then nothing has run."""
        stops_inside = advance.preempt_at is PreemptAt.EXPERT
        return self._runner.advance(advance.batch_ids, advance.until, goes_on, stops_inside=stops_inside)

    def abandon(self, batch_ids: Sequence[int], message: str) -> list[BatchError]:
        """Forgets the batches of an advance that raised; returns each as failed."""
        return self._runner.abandon(batch_ids, message)

    def check(self, check_id: int) -> IntegrityReport:
        """Says what is held, and what of it contradicts itself."""
        return self._runner.integrity(check_id)

    def forget_all(self) -> None:
        """Forgets every sequence and batch."""
        self._runner.forget_all()
