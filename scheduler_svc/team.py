"""The workers that one service starts: the one that serves, and those that stand by with the model in memory.

    first worker joins ──▶ standbys start, say Hello, are told to wait ──▶ the serving one is lost: one of them serves
                                                                            the lost one is started again, and stands by

Which of them serves is the channel's to say. Knows nothing of what a worker does.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from scheduler_svc.supervisor import WorkerRefused, WorkerSupervisor

_log = logging.getLogger(__name__)

_RETRY_S = 60.0
_KIB = 1024


class WorkerTeam:
    """One serving worker and so many standbys.

    Args:
        make: Makes the supervisor of one worker.
        num_standbys: How many stand by, where the machine's memory allows.
    """

    def __init__(self, make: Callable[[], WorkerSupervisor], num_standbys: int = 0) -> None:
        self._supervisors = [make() for _ in range(1 + num_standbys)]
        self._served = asyncio.Event()
        self._closed = asyncio.Event()

    async def run(self) -> None:
        """Keeps the workers running until `close`; raises WorkerRefused when the first one can't start at all."""
        first, *others = self._supervisors
        runs = [asyncio.create_task(first.run()), *(asyncio.create_task(self._stand_by(other)) for other in others)]
        try:
            await asyncio.gather(*runs)
        finally:
            for run in runs:
                run.cancel()
            await asyncio.gather(*runs, return_exceptions=True)

    def worker_joined(self, pid: int, dtype: str) -> None:
        """Notes that the worker of this process serves, computing in this type: its successors do the same."""
        for supervisor in self._supervisors:
            if supervisor.owns(pid):
                supervisor.worker_joined()
            supervisor.keep_dtype(dtype)
        self._served.set()

    def worker_waits(self, pid: int) -> None:
        """Notes that the worker of this process stands by."""
        for supervisor in self._supervisors:
            if supervisor.owns(pid):
                supervisor.worker_waits()

    def worker_lost(self) -> None:
        """Notes that none of them serves."""
        for supervisor in self._supervisors:
            supervisor.worker_lost()

    def worker_hung(self, pid: int) -> None:
        """Ends the worker of this process, if it is one of ours."""
        for supervisor in self._supervisors:
            if supervisor.owns(pid):
                supervisor.worker_hung()

    async def close(self) -> None:
        """Ends all of them."""
        self._closed.set()
        self._served.set()
        await asyncio.gather(*(supervisor.close() for supervisor in self._supervisors))

    async def _stand_by(self, supervisor: WorkerSupervisor) -> None:
        """Keeps a standby running as soon as a worker serves; one that can't start is tried again later."""
        await self._served.wait()
        while not self._closed.is_set():
            reason = self._lack_of_memory()
            if reason is None:
                try:
                    await supervisor.run()
                except WorkerRefused as refused:
                    reason = str(refused)
            if reason is not None:
                _log.warning("standby_not_started reason=%r retry_s=%d", reason, _RETRY_S)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closed.wait(), _RETRY_S)

    def _lack_of_memory(self) -> str | None:
        """Says why a further worker has no room beside the first one, by what that takes; None if it has, or may."""
        pid = self._supervisors[0].pid
        taken = None if pid is None else _number_in(Path(f"/proc/{pid}/status"), "VmRSS:")
        available = _number_in(Path("/proc/meminfo"), "MemAvailable:")
        if taken is None or available is None or taken <= available:
            return None
        return f"{available // _KIB} MiB of memory are available, the serving worker takes {taken // _KIB} MiB"


def _number_in(file: Path, name: str) -> int | None:
    """Returns a number of KiB that the system tells; None where it does not."""
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return None
