"""The time in which no worker serves: requests wait for one, for a bounded time, and then they end.

    worker lost, or hung ──▶ begins ──▶ a worker serves: ends
                               └──▶ `wait_s` later: over; requests end, and new ones are refused until a worker serves

Knows no request: whoever owns them is told when it is over.
"""

import asyncio
from collections.abc import Callable


class Absence:
    """That of one service's worker.

    Args:
        wait_s: How long requests wait, in seconds.
        give_up: Called when that time is over, with why there is no worker.
    """

    def __init__(self, wait_s: float, give_up: Callable[[str], None]) -> None:
        self._wait_s = wait_s
        self._give_up = give_up
        self._timer: asyncio.TimerHandle | None = None
        self.reason: str | None = "no worker has connected yet"
        self.is_over = True

    def begins(self, reason: str) -> None:
        """Takes in that no worker serves any more. One that has begun goes on, for this reason now."""
        self.reason = reason
        if self._timer is None and not self.is_over:
            self._timer = asyncio.get_running_loop().call_later(self._wait_s, self._end_waiting)

    def is_enough(self, reason: str) -> None:
        """Takes in that waiting for a worker is of no use, for a reason."""
        self.close()
        self.reason, self.is_over = reason, True
        self._give_up(reason)

    def ends(self) -> None:
        """Takes in that a worker serves."""
        self.close()
        self.reason, self.is_over = None, False

    def close(self) -> None:
        """Stops waiting; nobody is told."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_waiting(self) -> None:
        self._timer, self.is_over = None, True
        self._give_up(f"{self.reason}; no worker served for {self._wait_s:g} s")
