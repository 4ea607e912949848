"""Keeps what is wrong with one sequence from ending the others: leaves it out, and says so with the next result.

    command ─▶ ForgivingExecutor ─▶ executor     a SequenceRefused comes back: the sequence is forgotten, the command given again
                     ╰─ StepResult.sequence_errors        without it; whatever names it passes it over, until it is dropped

One more executor in front of another; it knows the wire format, and neither a tensor nor a socket. What contradicts the worker's
state as a whole (a batch that nobody knows) is refused as before.
"""

import contextlib
import logging
from collections.abc import Callable

from qllm.v1 import control_pb2

from gpu_worker.channel.engine import Executor
from gpu_worker.cursor import Cursor
from gpu_worker.errors import CommandRefused, SequenceRefused

_log = logging.getLogger(__name__)


class ForgivingExecutor:
    """Carries commands out as far as they make sense.

    Args:
        executor: Carries them out; whatever it refuses has changed nothing.
        num_layers: The model's decoder layers; a batch that reaches this layer is over.
    """

    def __init__(self, executor: Executor, num_layers: int) -> None:
        self._executor = executor
        self._num_layers = num_layers
        self._left_out: set[int] = set()  # sequences that the scheduler has not dropped yet
        self._empty_batch_ids: set[int] = set()  # batches of which nobody is left
        self._unreported: list[control_pb2.SequenceError] = []

    def apply(self, command: control_pb2.StepCommand) -> None:
        """Carries out a command other than Advance; raises CommandRefused, and then nothing has changed."""
        match command.WhichOneof("command"):
            case "start_batch" if command.start_batch.items:
                self._start_batch(command)
            case "drop_sequence" if command.drop_sequence.seq_id in self._left_out:
                self._left_out.remove(command.drop_sequence.seq_id)
            case "drop_batch" if command.drop_batch.batch_id in self._empty_batch_ids:
                self._empty_batch_ids.remove(command.drop_batch.batch_id)
            case "add_sequence" | "offload_sequence" | "restore_sequence" as kind:
                self._concern_one(command, getattr(command, kind).seq_id)
            case _:
                self._executor.apply(command)

    def advance(self, advance: control_pb2.Advance, goes_on: Callable[[Cursor], bool]) -> control_pb2.StepResult:
        """Runs batches on, asking `goes_on` before each unit of work; raises CommandRefused, and then nothing has run."""
        result = self._advance_others(advance, goes_on)
        if result.reached.layer >= self._num_layers:
            self._empty_batch_ids.difference_update(advance.batch_ids)
        for error in result.sequence_errors:
            self._leave_out(error.seq_id)
        result.sequence_errors.extend(self._unreported)
        self._unreported.clear()
        return result

    def abandon(self, advance: control_pb2.Advance, message: str) -> control_pb2.StepResult:
        """Forgets the batches of an advance that raised, and reports each as failed."""
        return self._executor.abandon(advance, message)

    def forget_all(self) -> None:
        """Forgets every sequence and batch."""
        self._executor.forget_all()
        self._left_out.clear()
        self._empty_batch_ids.clear()
        self._unreported.clear()

    def _concern_one(self, command: control_pb2.StepCommand, seq_id: int) -> None:
        """Carries out what concerns one sequence; if that is refused, it is the sequence's end."""
        if seq_id not in self._left_out:
            try:
                self._executor.apply(command)
            except CommandRefused as refusal:
                self._refuse(seq_id, str(refusal))

    def _start_batch(self, command: control_pb2.StepCommand) -> None:
        """Begins an iteration of those members that can take part."""
        start = command.start_batch
        self._without_left_out(start)
        while start.items:
            try:
                self._executor.apply(command)
            except SequenceRefused as refusal:
                self._refuse(refusal.seq_id, str(refusal))
                self._without_left_out(start)
            else:
                return
        self._empty_batch_ids.add(start.batch_id)

    def _without_left_out(self, start: control_pb2.StartBatch) -> None:
        if self._left_out and any(item.seq_id in self._left_out for item in start.items):
            kept = [item for item in start.items if item.seq_id not in self._left_out]
            del start.items[:]
            start.items.extend(kept)

    def _advance_others(
        self, advance: control_pb2.Advance, goes_on: Callable[[Cursor], bool]
    ) -> control_pb2.StepResult:
        """Advances the batches that somebody is left of."""
        if not self._empty_batch_ids.isdisjoint(advance.batch_ids):
            kept = [batch_id for batch_id in advance.batch_ids if batch_id not in self._empty_batch_ids]
            advance = control_pb2.Advance(batch_ids=kept, until=advance.until, preempt_at=advance.preempt_at)
        while advance.batch_ids:
            try:
                return self._executor.advance(advance, goes_on)
            except SequenceRefused as refusal:
                self._refuse(refusal.seq_id, str(refusal))
        return control_pb2.StepResult(reached=advance.until)

    def _refuse(self, seq_id: int, message: str) -> None:
        _log.error("sequence_refused seq_id=%d error=%r", seq_id, message)
        self._unreported.append(control_pb2.SequenceError(seq_id=seq_id, message=message))
        self._leave_out(seq_id)

    def _leave_out(self, seq_id: int) -> None:
        """Forgets a sequence here; a suspended batch that holds it goes on without it."""
        self._left_out.add(seq_id)
        drop = control_pb2.StepCommand(drop_sequence=control_pb2.DropSequence(seq_id=seq_id))
        with contextlib.suppress(CommandRefused):
            self._executor.apply(drop)
