"""Owns the threads that work on long texts, so that the event loop, and with it every stream, goes on meanwhile.

One thread a class: best-effort prompts never stand in front of a latency-sensitive one. Knows nothing of tokenizers.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from scheduler_svc.core.sequence import RequestClass
from scheduler_svc.errors import Overloaded, ServiceError

# About one millisecond of tokenization: less than what a thread switch may cost, so done at once.
INLINE_CHARS = 2048
DEFAULT_MAX_WAITING_CHARS = 64 << 20

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


class TextThreads:
    """Runs work on texts: at once when it is short, on the class's thread when it is long.

    Args:
        max_waiting_chars: Most characters of one class that may wait or be worked on; more is refused.
    """

    def __init__(self, max_waiting_chars: int = DEFAULT_MAX_WAITING_CHARS) -> None:
        self._max_waiting_chars = max_waiting_chars
        self._waiting_chars = dict.fromkeys(RequestClass, 0)
        self._executors = {
            request_class: ThreadPoolExecutor(1, thread_name_prefix=f"text-{request_class.name.lower()}")
            for request_class in RequestClass
        }

    async def run(self, request_class: RequestClass, num_chars: int, work: Callable[[], Result]) -> Result:
        """Returns what `work` returns, or raises what it raises.

        Raises:
            TextBacklog: Too much text of the class waits; `work` was not started.
        """
        if num_chars <= INLINE_CHARS:
            return work()
        if self._waiting_chars[request_class] + num_chars > self._max_waiting_chars:
            raise TextBacklog(request_class.name, self._max_waiting_chars, retry_after_s=1.0)
        self._waiting_chars[request_class] += num_chars
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executors[request_class], work)
        finally:
            self._waiting_chars[request_class] -= num_chars

    def close(self) -> None:
        """Drops what waits; work that runs comes to its end."""
        for executor in self._executors.values():
            executor.shutdown(wait=False, cancel_futures=True)
