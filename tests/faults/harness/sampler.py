"""Samples what a running service uses: memory, descriptors and threads of its processes, blocks of its cache."""

import asyncio
import contextlib
import time
from collections import defaultdict
from typing import Self

from tests.faults.checker.trend import Sample
from tests.faults.harness.process_usage import Usage, usage_of
from tests.faults.harness.service import Service


class Sampler:
    """Looks at a service at a steady interval; use it as an async context.

    Attributes:
        series: Samples by what was looked at, such as "scheduler rss_bytes".
    """

    def __init__(self, service: Service, interval_s: float = 1.0) -> None:
        self._service = service
        self._interval_s = interval_s
        self.series: dict[str, list[Sample]] = defaultdict(list)

    async def __aenter__(self) -> Self:
        """Begins."""
        self._task = asyncio.create_task(self._sample())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ends."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _sample(self) -> None:
        while True:
            now_s = time.monotonic()
            worker = self._service.worker_pid()
            self._note(now_s, "scheduler", usage_of(self._service.scheduler_pid))
            self._note(now_s, "worker", usage_of(worker) if worker is not None else None)
            loads = await self._service.loads()
            if loads is not None:
                self.series["blocks held"].append((now_s, loads.total_blocks - loads.free_blocks))
            await asyncio.sleep(self._interval_s)

    def _note(self, now_s: float, who: str, usage: Usage | None) -> None:
        if usage is not None:
            for what in Usage.__dataclass_fields__:
                self.series[f"{who} {what}"].append((now_s, getattr(usage, what)))
