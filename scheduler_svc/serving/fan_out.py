"""Decides whose turn it is to hand tokens to its reader, so that the worker's next step never waits for all streams.

Writing a message costs the event loop some 50 us. A step may bring tokens for hundreds of streams; released all
together, they would hold up for many milliseconds what arrives next, the worker's result most of all. So only a few are
released in each turn of the loop, and between turns the loop looks at its sockets and timers:

    turn      | result, commands out, 16 readers | 16 readers | 16 readers | result, commands out, 16 readers | ...

Nobody loses a token by waiting: what comes meanwhile is handed over together. Knows nothing of tokens and requests.
"""

from collections import deque
from collections.abc import Callable

from scheduler_svc.core.state.sequence import RequestClass

MAX_RELEASED_A_TURN = 16


class FanOut:
    """Releases readers a few at a time: latency-sensitive ones first, in the order in which they came.

    Args:
        call_soon: Calls back in the event loop's next turn, as `loop.call_soon` does.
    """

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon = call_soon
        self._latency_sensitive: deque[Callable[[], None]] = deque()
        self._best_effort: deque[Callable[[], None]] = deque()
        self._num_left = MAX_RELEASED_A_TURN
        self._is_turn_ahead = False

    def put(self, request_class: RequestClass, release: Callable[[], None]) -> None:
        """Calls `release` soon: at once if this turn has room and nobody waits, else in one of the next turns."""
        is_ls = request_class is RequestClass.LATENCY_SENSITIVE
        if self._num_left and not self._latency_sensitive and not self._best_effort:
            self._num_left -= 1
            release()
        else:
            (self._latency_sensitive if is_ls else self._best_effort).append(release)
        self._expect_turn()

    def _expect_turn(self) -> None:
        if not self._is_turn_ahead:
            self._is_turn_ahead = True
            self._call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        self._is_turn_ahead = False
        kept = 1 if self._best_effort else 0  # best-effort readers are behind, but not without end
        self._num_left = MAX_RELEASED_A_TURN - kept
        self._release_from(self._latency_sensitive)
        self._num_left += kept
        self._release_from(self._best_effort)
        if self._num_left < MAX_RELEASED_A_TURN:
            self._expect_turn()

    def _release_from(self, waiting: deque[Callable[[], None]]) -> None:
        while waiting and self._num_left:
            self._num_left -= 1
            waiting.popleft()()
