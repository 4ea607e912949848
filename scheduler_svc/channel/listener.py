"""What the owner of a worker link hears. It knows no socket, so that an engine can be tested without one."""

from typing import Protocol

from scheduler_svc.core.state.ids import CommandId
from scheduler_svc.core.state.results import IntegrityReport, StepResult, WorkTiming
from scheduler_svc.generation import ServedModel


class LinkListener(Protocol):
    """Hears of the worker, on the event loop, one event at a time and in the order in which they happened."""

    def worker_joined(self, epoch: int, model: ServedModel, calibration: list[WorkTiming], pid: int) -> None:
        """A worker is ready and knows nothing yet."""

    def step_result(self, result: StepResult) -> None:
        """The worker carried out an Advance."""

    def integrity_reported(self, report: IntegrityReport) -> None:
        """The worker answered CheckIntegrity."""

    def command_refused(self, message: str, command_id: CommandId | None) -> None:
        """The worker could not carry out a command, or its answer made no sense; the id is that of an Advance."""

    def patience_s(self) -> float | None:
        """Returns how long the worker may go without progress in the step that it runs; None if nothing is known."""

    def worker_lost(self, reason: str, *, died: bool) -> None:
        """The worker is gone, and what it knew with it; unless it `died` it went in good order."""

    def worker_waits(self, pid: int) -> None:
        """A worker that another one keeps from serving says that it is there; it says so again every ten seconds."""

    def worker_hung(self, reason: str) -> None:
        """The worker makes no progress; it may recover."""

    def worker_recovered(self) -> None:
        """The hung worker makes progress again; nothing was lost."""
