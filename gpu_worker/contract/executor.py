"""What the engine asks of whoever carries out commands: a model, a simulation, or one executor in front of another."""

from collections.abc import Callable, Sequence
from typing import Protocol

from gpu_worker.contract.commands import Advance, Command
from gpu_worker.contract.results import AdvanceOutcome, BatchError, IntegrityReport
from gpu_worker.cursor import Cursor

GoesOn = Callable[[Cursor], bool]
"""Asked with the cursor before each unit of work; False leaves the batches standing there."""


class Executor(Protocol):
    """Carries commands out on a model; one thread calls it."""

    def apply(self, command: Command) -> None:
        """Carries out a command other than Advance.

        Raises:
            CommandRefused: It makes no sense; nothing has changed.
            CacheLost: A cache could not be moved; its sequence is forgotten.
        """

    def advance(self, advance: Advance, goes_on: GoesOn) -> AdvanceOutcome:
        """Runs batches on, asking `goes_on` before each unit; raises CommandRefused, and then nothing has run."""

    def abandon(self, batch_ids: Sequence[int], message: str) -> list[BatchError]:
        """Forgets the batches of an advance that raised; returns each as failed, with what its sequences are told."""

    def check(self, check_id: int) -> IntegrityReport:
        """Says what is held, and what of it contradicts itself; the id comes back in the answer."""

    def forget_all(self) -> None:
        """Forgets every sequence and batch."""
