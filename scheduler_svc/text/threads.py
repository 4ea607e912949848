"""Owns the threads that work on long texts, so that the event loop, and with it every stream, goes on meanwhile.

    class ──▶ up to 2,048 characters: at once, on the caller's thread
          ──▶ longer: a lane for each class, so that best-effort prompts never stand before latency-sensitive ones
          ──▶ very long: another lane for each class, so that a text of seconds never stands before one of milliseconds

Within a lane clients take turns, and shorter texts of a client pass its longer ones for a while
(`turns`). Knows nothing of tokenizers.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TypeVar

from scheduler_svc.caller import current_caller
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import Overloaded, ServiceError, jittered
from scheduler_svc.process.garbage import return_memory
from scheduler_svc.text.turns import Turns

# About one millisecond of tokenization: less than what a thread switch may cost, so done at once.
INLINE_CHARS = 2048
# Tens of milliseconds: what a text of normal length may wait for.
VERY_LONG_CHARS = 1 << 15
DEFAULT_MAX_WAITING_CHARS = 64 << 20
# Leaves room for the texts of others.
DEFAULT_MAX_CLIENT_CHARS = 48 << 20
_RETRY_S = 1.0
# A text lets shorter ones pass that came up to a second later for each so many characters that it is longer: the
# longest of a lane some 20 s, in which hundreds of long ones are done.
PATIENCE_CHARS_PER_S = 2_000
VERY_LONG_PATIENCE_CHARS_PER_S = 100_000

Result = TypeVar("Result")


class TextBacklog(Overloaded):
    """Too much text, of a class or of one of its clients, waits to be tokenized."""

    def __init__(self, whose: str, limit_chars: int, retry_after_s: float) -> None:
        ServiceError.__init__(
            self,
            f"{whose}: more than {limit_chars} characters of prompts would wait to be tokenized; "
            f"retry in {retry_after_s:.1f} s",
        )
        self.retry_after_s = retry_after_s


class _Lane:
    """One thread, and what waits for it."""

    def __init__(self, name: str, turns: Turns) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._turns = turns

    async def run(self, num_chars: int, work: Callable[[], Result]) -> Result:
        """Runs `work` when its turn comes; a caller that leaves before loses it."""
        loop = asyncio.get_running_loop()
        await self._turns.take(num_chars)
        running = self._executor.submit(work)

        def done(_: object) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._turns.pass_on)

        running.add_done_callback(done)
        return await asyncio.wrap_future(running)

    def close(self) -> None:
        """Drops what waits."""
        self._turns.close()
        self._executor.shutdown(wait=False, cancel_futures=True)


class TextThreads:
    """Runs work on texts: at once when it is short, on a lane of the class when it is long.

    Args:
        max_waiting_chars: Most characters of one class that may wait or be worked on; more is refused.
        max_client_chars: Most of them of one client.
        clock: Returns seconds, by which patience ends.
    """

    def __init__(
        self,
        max_waiting_chars: int = DEFAULT_MAX_WAITING_CHARS,
        max_client_chars: int = DEFAULT_MAX_CLIENT_CHARS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._max_waiting_chars = max_waiting_chars
        self._max_client_chars = max_client_chars
        self._waiting_chars: dict[RequestClass, Counter[str]] = {one: Counter() for one in RequestClass}
        names = {request_class: f"text-{request_class.name.lower()}" for request_class in RequestClass}
        self._lanes = {one: _Lane(name, Turns(PATIENCE_CHARS_PER_S, clock)) for one, name in names.items()}
        self._very_long_lanes = {
            one: _Lane(f"{name}-long", Turns(VERY_LONG_PATIENCE_CHARS_PER_S, clock)) for one, name in names.items()
        }

    async def run(self, request_class: RequestClass, num_chars: int, work: Callable[[], Result]) -> Result:
        """Returns what `work` returns, or raises what it raises.

        Raises:
            TextBacklog: Too much text of the class, or of its client, waits; `work` was not started.
        """
        if num_chars <= INLINE_CHARS:
            await asyncio.sleep(0)  # a request may have a hundred of them
            return work()
        with self.room(request_class, num_chars):
            if num_chars <= VERY_LONG_CHARS:
                return await self._lanes[request_class].run(num_chars, work)
            return await self._very_long_lanes[request_class].run(num_chars, lambda: _tidily(work))

    @contextmanager
    def room(self, request_class: RequestClass, num_chars: int) -> Iterator[None]:
        """Counts a text as one that waits while the block runs; raises TextBacklog if there is no room for it."""
        waiting, client = self._waiting_chars[request_class], current_caller()
        self._require_room(request_class.words, waiting.total() + num_chars, waiting[client] + num_chars)
        waiting[client] += num_chars
        try:
            yield
        finally:
            waiting[client] -= num_chars
            if not waiting[client]:
                del waiting[client]

    def _require_room(self, class_name: str, num_class_chars: int, num_client_chars: int) -> None:
        if num_class_chars > self._max_waiting_chars:
            raise TextBacklog(class_name, self._max_waiting_chars, jittered(_RETRY_S))
        if num_client_chars > self._max_client_chars:
            raise TextBacklog(f"{class_name}, of one client", self._max_client_chars, jittered(_RETRY_S))

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
