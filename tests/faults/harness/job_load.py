"""Jobs that clients ask for without pause, so that something is always being committed: creates, claims, outcomes."""

import asyncio
import contextlib
import itertools
import random
import time
import uuid
from collections.abc import Iterable
from typing import Self

import grpc
from qllm.v1 import batches_pb2 as pb

from tests.faults import plans
from tests.faults.checker.jobs import JobsVerdict, judge_jobs
from tests.faults.harness.job_clients import JobClients
from tests.faults.job_records import FoundJob, JobRecord
from tests.faults.plans import References

_NUM_CLIENTS = 3
_MOST_ITEMS = 3
_PAUSE_S = 0.01  # between two jobs of a client: their items have to be done in the end
_POLL_S = 0.2
_NUM_READERS = 4
_ENDS = (pb.BATCH_STATUS_COMPLETED, pb.BATCH_STATUS_FAILED, pb.BATCH_STATUS_EXPIRED, pb.BATCH_STATUS_CANCELLED)


class JobLoad:
    """Clients of one address; use it as an async context. Nothing is asked before `begin`.

    Args:
        address: Where they ask.
        rng: Chooses what.

    Attributes:
        records: What they asked for, each job with a key.
    """

    def __init__(self, address: str, rng: random.Random) -> None:
        self._address = address
        self._rng = rng
        self._prefix = uuid.uuid4().hex
        self._numbers = itertools.count()
        self._is_over = False
        self._tasks: list[asyncio.Task[None]] = []
        self.records: list[JobRecord] = []

    async def __aenter__(self) -> Self:
        """Opens the channel."""
        self._clients = await JobClients([self._address], self._rng).__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leaves what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._clients.__aexit__()

    @property
    def num_acknowledged(self) -> int:
        """Jobs that were accepted."""
        return sum(bool(record.batch_ids) for record in self.records)

    def begin(self) -> None:
        """Asks from now on."""
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(_NUM_CLIENTS)]

    async def judged(self, references: References, bound_s: float) -> JobsVerdict:
        """Asks no further, waits until all jobs have ended, each wait within the bound, and judges them."""
        self._is_over = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=bound_s)
        batches = await ended_jobs(self._clients, bound_s, self._prefix)
        return judge_jobs(self.records, await with_results(self._clients, batches), {}, references.of)

    async def _ask(self) -> None:
        while not self._is_over:
            name = f"{self._prefix} {next(self._numbers)}"
            items = tuple(self._rng.choice(plans.JOB_ITEMS) for _ in range(self._rng.randint(1, _MOST_ITEMS)))
            record = JobRecord(name, items, key=name)
            self.records.append(record)
            await self._clients.submit(record)
            await asyncio.sleep(_PAUSE_S)


async def ended_jobs(clients: JobClients, bound_s: float, prefix: str = "") -> list[pb.Batch]:
    """Returns all jobs whose names begin so, once they have ended or the bound is over; none if they can't be read."""
    deadline_s, jobs = time.monotonic() + bound_s, list[pb.Batch]()
    while time.monotonic() < deadline_s:
        with contextlib.suppress(grpc.aio.AioRpcError):
            jobs = [job for job in await clients.all_jobs() if job.metadata["name"].startswith(prefix)]
            if all(job.status in _ENDS for job in jobs):
                break
        await asyncio.sleep(_POLL_S)
    return jobs


async def with_results(clients: JobClients, batches: Iterable[pb.Batch]) -> list[FoundJob]:
    """Returns jobs with their results; raises AioRpcError if they can't be read."""
    left = iter(batches)

    async def read() -> list[FoundJob]:
        return [await clients.found(batch) for batch in left]

    return [job for jobs in await asyncio.gather(*[read() for _ in range(_NUM_READERS)]) for job in jobs]
