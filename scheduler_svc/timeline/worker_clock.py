"""Places the worker's steps on the scheduler's clock.

The worker tells how long each step took and how long it stood idle before, so its steps line up end to end by
themselves, but for what it did between them. What is not known is when an answer left: it is late by what
delivery took. The least delay among the last few answers is taken for all of them, so that one late answer does
not shift a step.
"""

from collections import deque

_NUM_DELAYS = 4  # few: what the worker does between steps adds up in the chain


class WorkerClock:
    """The chain of one worker's steps; times are the scheduler's, in seconds."""

    def __init__(self) -> None:
        self._chain_s: float | None = None
        self._delays_s: deque[float] = deque(maxlen=_NUM_DELAYS)
        self._end_s = float("-inf")

    def place(self, idle_s: float, duration_s: float, sent_s: float, known_s: float) -> tuple[float, float]:
        """Returns when the next step began and ended: between its sending and its result, overlapping no other step."""
        if self._chain_s is None:
            self._chain_s = known_s - duration_s - idle_s
        self._chain_s += idle_s + duration_s
        self._delays_s.append(known_s - self._chain_s)
        end_s = min(known_s, max(self._chain_s + min(self._delays_s), sent_s + duration_s, self._end_s))
        begin_s = max(self._end_s, end_s - duration_s)
        self._end_s = end_s
        return begin_s, end_s
