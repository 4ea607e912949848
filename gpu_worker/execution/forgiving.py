"""Keeps what is wrong with one sequence from ending the others: leaves it out, and says so with the next result.

    command ─▶ ForgivingExecutor ─▶ executor     a SequenceRefused comes back: the sequence is forgotten, the command
                     ╰─ outcome.sequence_errors   given again without it; whatever names it passes it over, until it
                                                  is dropped. A CacheLost: likewise, and it can be computed again

Blocks that a lost cache was to come back to do not hold what the scheduler may take them for, so whoever is to share
them has lost its cache too, until they are given away as new ones.

One more executor in front of another; it knows neither a tensor nor a socket. What contradicts the worker's state as a
whole (a batch that nobody knows) is refused as before.
"""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace

from gpu_worker.contract.commands import (
    AddSequence,
    Advance,
    BatchItem,
    Command,
    DropBatch,
    DropSequence,
    ForkSequence,
    OffloadSequence,
    RestoreSequence,
    StartBatch,
)
from gpu_worker.contract.executor import Executor, GoesOn
from gpu_worker.contract.results import AdvanceOutcome, BatchError, IntegrityReport, SequenceError
from gpu_worker.errors import CacheLost, CommandRefused, SequenceRefused

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
        self._ruined_block_ids: set[int] = set()  # to be filled by what was lost
        self._unreported: list[SequenceError] = []

    def apply(self, command: Command) -> None:
        """Carries out a command other than Advance; raises CommandRefused, and then nothing has changed."""
        match command:
            case StartBatch() if command.items:
                self._start_batch(command)
            case DropSequence(seq_id) if seq_id in self._left_out:
                self._left_out.remove(seq_id)
            case DropBatch(batch_id) if batch_id in self._empty_batch_ids:
                self._empty_batch_ids.remove(batch_id)
            case AddSequence() | ForkSequence() | OffloadSequence() | RestoreSequence():
                self._concern_one(command)
            case _:
                self._executor.apply(command)

    def advance(self, advance: Advance, goes_on: GoesOn) -> AdvanceOutcome:
        """Runs batches on, asking `goes_on` before each unit; raises CommandRefused, and then nothing has run."""
        outcome = self._advance_others(advance, goes_on)
        if outcome.reached.layer >= self._num_layers:
            self._empty_batch_ids.difference_update(advance.batch_ids)
        for error in outcome.sequence_errors:
            self._leave_out(error.seq_id)
        outcome.sequence_errors.extend(self._unreported)
        self._unreported.clear()
        return outcome

    def abandon(self, batch_ids: Sequence[int], message: str) -> list[BatchError]:
        """Forgets the batches of an advance that raised; returns each as failed."""
        return self._executor.abandon(batch_ids, message)

    def check(self, check_id: int) -> IntegrityReport:
        """Says what is held, and what of it contradicts itself."""
        return self._executor.check(check_id)

    def forget_all(self) -> None:
        """Forgets every sequence and batch."""
        self._executor.forget_all()
        self._left_out.clear()
        self._empty_batch_ids.clear()
        self._ruined_block_ids.clear()
        self._unreported.clear()

    def _concern_one(self, command: AddSequence | ForkSequence | OffloadSequence | RestoreSequence) -> None:
        """Carries out what concerns one sequence; if that is refused, it is the sequence's end."""
        if self._is_carried_out(command):
            self._ruined_block_ids.difference_update(_new_block_ids(command))
        else:
            self._ruined_block_ids.update(_new_block_ids(command))

    def _is_carried_out(self, command: AddSequence | ForkSequence | OffloadSequence | RestoreSequence) -> bool:
        """Carries a command out unless its sequence is left out, which it is from now on if that fails."""
        if command.seq_id in self._left_out:
            return False
        if reason := self._why_lost(command):
            self._refuse(command.seq_id, reason, cache_is_lost=True)
            return False
        try:
            self._executor.apply(command)
        except CommandRefused as refusal:
            self._refuse(command.seq_id, str(refusal))
        except CacheLost as lost:
            self._refuse(command.seq_id, str(lost), cache_is_lost=True)
        else:
            return True
        return False

    def _why_lost(self, command: AddSequence | ForkSequence | OffloadSequence | RestoreSequence) -> str:
        """Says why nothing is there that a sequence could begin with; "" if it may be."""
        if isinstance(command, ForkSequence) and command.parent_seq_id in self._left_out:
            return f"sequence {command.parent_seq_id}, which it was to go on from, is gone"
        if not self._ruined_block_ids.isdisjoint(_shared_block_ids(command)):
            return "blocks that it was to share were never filled"
        return ""

    def _start_batch(self, start: StartBatch) -> None:
        """Begins an iteration of those members that can take part."""
        start = self._without_left_out(start)
        while start.items:
            try:
                self._executor.apply(start)
            except SequenceRefused as refusal:
                self._refuse(refusal.seq_id, str(refusal))
                start = self._without_left_out(start)
            else:
                if self._ruined_block_ids:
                    self._ruined_block_ids.difference_update(*(item.new_block_ids for item in start.items))
                return
        self._empty_batch_ids.add(start.batch_id)

    def _without_left_out(self, start: StartBatch) -> StartBatch:
        if not self._left_out:
            return start
        return replace(
            start, items=[self._without_others(item) for item in start.items if item.seq_id not in self._left_out]
        )

    def _without_others(self, item: BatchItem) -> BatchItem:
        """Returns an item that names nobody who is left out beside its own sequence."""
        if self._left_out.isdisjoint(item.also_sampled_ids):
            return item
        return item._replace(also_sampled_ids=[one for one in item.also_sampled_ids if one not in self._left_out])

    def _advance_others(self, advance: Advance, goes_on: GoesOn) -> AdvanceOutcome:
        """Advances the batches that somebody is left of."""
        if not self._empty_batch_ids.isdisjoint(advance.batch_ids):
            kept = [batch_id for batch_id in advance.batch_ids if batch_id not in self._empty_batch_ids]
            advance = replace(advance, batch_ids=kept)
        while advance.batch_ids:
            try:
                return self._executor.advance(advance, goes_on)
            except SequenceRefused as refusal:
                self._refuse(refusal.seq_id, str(refusal))
        return AdvanceOutcome(advance.until)

    def _refuse(self, seq_id: int, message: str, *, cache_is_lost: bool = False) -> None:
        _log.error("sequence_refused seq_id=%d cache_is_lost=%s error=%r", seq_id, cache_is_lost, message)
        self._unreported.append(SequenceError(seq_id, message, cache_is_lost))
        self._leave_out(seq_id)

    def _leave_out(self, seq_id: int) -> None:
        """Forgets a sequence here; a suspended batch that holds it goes on without it."""
        self._left_out.add(seq_id)
        with contextlib.suppress(CommandRefused):
            self._executor.apply(DropSequence(seq_id))


def _new_block_ids(command: Command) -> Sequence[int]:
    """Blocks that a sequence is given to be filled."""
    match command:
        case ForkSequence():
            return command.new_block_ids
        case RestoreSequence():
            return command.block_ids[command.num_shared_blocks :]
    return ()


def _shared_block_ids(command: Command) -> Sequence[int]:
    """Blocks that a sequence is given because they are filled."""
    match command:
        case AddSequence():
            return command.shared_block_ids
        case RestoreSequence():
            return command.block_ids[: command.num_shared_blocks]
    return ()
