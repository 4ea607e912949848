"""The commands sent to the worker and not yet answered, and the estimated time that they still take.

The worker runs them in order, so the time that has passed since the first one began counts as done. Time is an argument.
"""

from collections import deque
from dataclasses import dataclass

from scheduler_svc.core.batch import Batch
from scheduler_svc.core.commands import Advance
from scheduler_svc.core.sequence import RequestClass


@dataclass(frozen=True, slots=True)
class InFlight:
    """One Advance that the worker has not answered.

    Attributes:
        be_fraction: Share of its time that is charged to best-effort work, in [0, 1].
        after_quiet: Whether the worker had nothing to do before it, so that its idle time is nobody's fault.
    """

    command: Advance
    batches: tuple[Batch, ...]
    request_class: RequestClass
    estimate_s: float
    sent_s: float
    be_fraction: float
    after_quiet: bool


class CommandWindow:
    """Advances in flight, in the order in which they were sent."""

    def __init__(self) -> None:
        self._in_flight: deque[InFlight] = deque()
        self._estimate_s = 0.0
        self._head_began_s = 0.0

    def __len__(self) -> int:
        return len(self._in_flight)

    @property
    def has_latency_sensitive(self) -> bool:
        """Whether some command in flight runs latency-sensitive work."""
        return any(entry.request_class is RequestClass.LATENCY_SENSITIVE for entry in self._in_flight)

    def outstanding_s(self, now_s: float) -> float:
        """Estimates how long the commands in flight still take; 0 when there are none or they are overdue."""
        if not self._in_flight:
            return 0.0
        head_left_s = max(0.0, self._in_flight[0].estimate_s - (now_s - self._head_began_s))
        return head_left_s + max(0.0, self._estimate_s - self._in_flight[0].estimate_s)

    def send(self, entry: InFlight) -> None:
        """Adds a command that is being sent."""
        if not self._in_flight:
            self._head_began_s = entry.sent_s
        self._in_flight.append(entry)
        self._estimate_s += entry.estimate_s

    def answer(self, command_id: int, now_s: float) -> InFlight | None:
        """Takes the command that was answered; None if it is not the first in flight."""
        if not self._in_flight or self._in_flight[0].command.command_id != command_id:
            return None
        entry = self._in_flight.popleft()
        self._estimate_s = self._estimate_s - entry.estimate_s if self._in_flight else 0.0
        self._head_began_s = now_s
        return entry

    def holds(self, batch: Batch) -> bool:
        """Whether some command in flight advances the batch."""
        return any(batch in entry.batches for entry in self._in_flight)
