"""Watches a service from outside while faults happen: what it says of its state, what it logs, whether it answers."""

import asyncio
import contextlib
import time
from typing import Self

from qllm.v1 import admin_pb2

from tests.faults.checker.times import Sign
from tests.faults.harness.service import Service

_INTERVAL_S = 0.01
_PATIENCE_S = 0.3
_NO_ANSWER = "no answer"
_WORDS = ("worker_lost", "worker_hung", "worker_exited", "worker_recovered", "job_store_unavailable")


class Watch:
    """Looks every 10 ms and notes each sign that the service noticed something; use it as an async context.

    Attributes:
        signs: Oldest first; the time of each is when it was seen, up to 10 ms after it could be.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self.signs: list[Sign] = []

    async def __aenter__(self) -> Self:
        """Begins to look, at what is said from now on."""
        self._lines = self._service.new_lines()
        next(self._lines)
        self._before = await self._state()
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ends."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _look(self) -> None:
        before = self._before
        while True:
            await asyncio.sleep(_INTERVAL_S)
            self._note_log(next(self._lines))
            now = await self._state()
            if now != before and (before.startswith("READY") or now == _NO_ANSWER):
                self._note(f"{before} -> {now}")
            before = now

    async def _state(self) -> str:
        info = await self._service.info(_PATIENCE_S)
        if info is None:
            return _NO_ANSWER
        state = admin_pb2.WorkerState.Name(info.worker_state).removeprefix("WORKER_STATE_")
        return f"{state} {info.worker_epoch:016x}"

    def _note_log(self, lines: list[str]) -> None:
        for line in lines:
            if any(word in line for word in _WORDS):
                self._note(line.strip())

    def _note(self, what: str) -> None:
        self.signs.append(Sign(time.monotonic(), what))
