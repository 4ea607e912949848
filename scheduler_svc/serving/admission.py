"""Bounded queues: how many requests of a class may be live, and when to come back.

Each class has its own limit, so that best-effort work cannot crowd latency-sensitive work out. Time is an argument.
"""

from dataclasses import dataclass

from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import Overloaded, jittered

_MIN_RETRY_S, _MAX_RETRY_S = 0.1, 30.0
_SMOOTHING = 0.2


@dataclass(slots=True)
class ClassAdmission:
    """The live requests of one class, at most `limit`."""

    request_class: RequestClass
    limit: int
    num_live: int = 0
    _interval_s: float = 1.0
    _last_end_s: float | None = None

    def enter(self) -> None:
        """Counts a request in; raises Overloaded at the limit, with about the time that a place took to come free."""
        if self.num_live >= self.limit:
            retry_s = min(_MAX_RETRY_S, max(_MIN_RETRY_S, self._interval_s))
            raise Overloaded(self.request_class.name, self.limit, jittered(retry_s))
        self.num_live += 1

    def leave(self, now_s: float) -> None:
        """Counts a request out."""
        self.num_live -= 1
        if self._last_end_s is not None:
            self._interval_s += _SMOOTHING * (now_s - self._last_end_s - self._interval_s)
        self._last_end_s = now_s
