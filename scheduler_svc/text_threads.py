"""Owns the threads that work on long texts, so that the event loop, and with it every stream, goes on meanwhile.

    class ──▶ up to 2,048 characters: at once, on the caller's thread
          ──▶ longer: a lane of its own for each class, so that best-effort prompts never stand before latency-sensitive ones
          ──▶ very long: another lane for each class, so that a text of seconds never stands before one of milliseconds

Within a lane shorter texts pass longer ones for a while. Knows nothing of tokenizers.
"""

import asyncio
import heapq
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from typing import TypeVar

from scheduler_svc.core.sequence import RequestClass
from scheduler_svc.errors import Overloaded, ServiceError, jittered
from scheduler_svc.garbage import return_memory

# About one millisecond of tokenization: less than what a thread switch may cost, so done at once.
INLINE_CHARS = 2048
# Tens of milliseconds: what a text of normal length may wait for.
VERY_LONG_CHARS = 1 << 15
DEFAULT_MAX_WAITING_CHARS = 64 << 20
_RETRY_S = 1.0
# A text lets shorter ones pass that came up to a second later for each so many characters that it is longer.
_PATIENCE_CHARS_PER_S = 100_000

Result = TypeVar("Result")


class TextBacklog(Overloaded):
    """Too much text of the class waits to be tokenized."""

    def __init__(self, class_name: str, limit_chars: int, retry_after_s: float) -> None:
        ServiceError.__init__(
            self,
            f"{class_name}: more than {limit_chars} characters of prompts would wait to be tokenized; "
            f"retry in {retry_after_s:.1f} s",
        )
        self.retry_after_s = retry_after_s


class _Lane:
    """One thread, and what waits for it; what is next is decided when the thread is free."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()
        self._is_busy = False

    async def run(self, num_chars: int, work: Callable[[], Result]) -> Result:
        """Runs `work` when its turn comes; a caller that leaves before loses it."""
        loop = asyncio.get_running_loop()
        if self._is_busy:
            turn = loop.create_future()
            due_s = loop.time() + num_chars / _PATIENCE_CHARS_PER_S
            heapq.heappush(self._waiting, (due_s, next(self._order), turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():  # it was our turn already
                    self._next()
                raise
        self._is_busy = True
        running = self._executor.submit(work)

        def done(_: object) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._next)

        running.add_done_callback(done)
        return await asyncio.wrap_future(running)

    def _next(self) -> None:
        """Gives the turn to who is due first, of those who still wait."""
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._is_busy = False

    def close(self) -> None:
        """Drops what waits."""
        for _, _, turn in self._waiting:
            turn.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)


class TextThreads:
    """Runs work on texts: at once when it is short, on a lane of the class when it is long.

    Args:
        max_waiting_chars: Most characters of one class that may wait or be worked on; more is refused.
    """

    def __init__(self, max_waiting_chars: int = DEFAULT_MAX_WAITING_CHARS) -> None:
        self._max_waiting_chars = max_waiting_chars
        self._waiting_chars = dict.fromkeys(RequestClass, 0)
        names = {request_class: f"text-{request_class.name.lower()}" for request_class in RequestClass}
        self._lanes = {request_class: _Lane(name) for request_class, name in names.items()}
        self._very_long_lanes = {request_class: _Lane(f"{name}-long") for request_class, name in names.items()}

    async def run(self, request_class: RequestClass, num_chars: int, work: Callable[[], Result]) -> Result:
        """Returns what `work` returns, or raises what it raises.

        Raises:
            TextBacklog: Too much text of the class waits; `work` was not started.
        """
        if num_chars <= INLINE_CHARS:
            return work()
        if self._waiting_chars[request_class] + num_chars > self._max_waiting_chars:
            raise TextBacklog(request_class.name, self._max_waiting_chars, jittered(_RETRY_S))
        self._waiting_chars[request_class] += num_chars
        try:
            if num_chars <= VERY_LONG_CHARS:
                return await self._lanes[request_class].run(num_chars, work)
            return await self._very_long_lanes[request_class].run(num_chars, lambda: _tidily(work))
        finally:
            self._waiting_chars[request_class] -= num_chars

    def close(self) -> None:
        """Drops what waits; work that runs comes to its end."""
        for lane in (*self._lanes.values(), *self._very_long_lanes.values()):
            lane.close()


def _tidily(work: Callable[[], Result]) -> Result:
    """A text of two million characters takes 300 MiB while it is tokenized, which the process would keep."""
    try:
        return work()
    finally:
        return_memory()
