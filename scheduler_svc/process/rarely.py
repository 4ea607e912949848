"""Decides when something that may happen thousands of times a second is worth another line of the log."""

import time
from collections.abc import Callable

INTERVAL_S = 60.0


class Rarely:
    """Says yes at most once in a while.

    Args:
        interval_s: How long a while is.
        clock: Gives the time in seconds.
    """

    def __init__(self, interval_s: float = INTERVAL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._next_s = -float("inf")

    def is_due(self) -> bool:
        """Returns True the first time, and then once an interval."""
        now_s = self._clock()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + self._interval_s
        return True
