"""What may watch the core at work: a listener that records and decides nothing."""

from typing import Protocol

from scheduler_svc.core.state.batch import Batch
from scheduler_svc.core.state.results import StepResult
from scheduler_svc.core.window import InFlight


class StepObserver(Protocol):
    """Hears of each step that the worker answered, in the order they ran in; must not change what it is shown."""

    def batch_preempted(self, batch: Batch, by: tuple[Batch, ...]) -> None:
        """A batch was left inside its iteration, where its last step ended, for others, whose step comes next."""

    def step_answered(self, step: InFlight, result: StepResult, now_s: float) -> None:
        """The worker did what `step` says, or as much of it as `result` says; it became known at `now_s`."""
