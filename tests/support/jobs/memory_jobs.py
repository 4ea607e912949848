"""Jobs and files in memory, with what a runner does as calls that a test makes."""

import itertools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from scheduler_svc.errors import InvalidRequest, ServiceError
from scheduler_svc.jobs.interface import StoreUnavailable
from scheduler_svc.jobs.job import (
    Claim,
    ItemCounts,
    ItemOutcome,
    ItemResult,
    ItemStatus,
    Job,
    JobStatus,
    LineError,
    NewItem,
    NewJob,
    Progress,
    StoredFile,
)

NOW_S = 1_800_000_000.0
NOTHING = Progress()


class ItemWorker(Protocol):
    async def run(self, claim: Claim, on_progress: Callable[[Progress], None]) -> ItemOutcome: ...


@dataclass
class StoredJob:
    job: Job
    key: str
    items: list[NewItem]
    outcomes: dict[int, ItemOutcome] = field(default_factory=dict)


class MemoryJobs:
    """Implements scheduler_svc.jobs.interface.JobFrontDoor.

    Args:
        now_s: When everything happens, some seconds apart.

    Attributes:
        is_down: Whether the store can't be reached.
        kept_s: For how long it says that it keeps jobs and files.
        retry_after_s: When it says that it will be there again.
        progress: What items had when their work was last noted.
    """

    def __init__(self, now_s: float = NOW_S) -> None:
        self._now_s = now_s
        self._jobs: dict[str, StoredJob] = {}
        self._files: dict[str, tuple[StoredFile, bytes]] = {}
        self._ids = itertools.count(1)
        self.is_down = False
        self.kept_s: float | None = None
        self.retry_after_s = 2.0
        self.progress: dict[tuple[str, int], list[Progress]] = {}

    @property
    def keep_s(self) -> float | None:
        return self.kept_s

    async def job_of_key(self, tenant: str, key: str) -> Job | None:
        self._require_up()
        found = (stored.job for stored in self._jobs.values() if (stored.job.tenant, stored.key) == (tenant, key))
        return next(found, None)

    async def create_job(self, job: NewJob, items: AsyncIterable[NewItem]) -> Job:
        self._require_up()
        new = [item async for item in items]
        if not new:
            raise InvalidRequest("items", "none", "at least one item")
        for stored in self._jobs.values():
            if job.idempotency_key and (stored.job.tenant, stored.key) == (job.tenant, job.idempotency_key):
                return stored.job
        counts = ItemCounts(total=len(new), succeeded=0, failed=0)
        return self._add(job, JobStatus.IN_PROGRESS, counts, new)

    async def fail_job(self, job: NewJob, errors: Sequence[LineError]) -> Job:
        self._require_up()
        return self._add(job, JobStatus.FAILED, ItemCounts(0, 0, 0), (), errors)

    async def job(self, tenant: str, job_id: str) -> Job | None:
        self._require_up()
        stored = self._jobs.get(job_id)
        return stored.job if stored is not None and stored.job.tenant == tenant else None

    async def jobs(self, tenant: str, after: str | None, limit: int) -> tuple[list[Job], bool]:
        self._require_up()
        own = [stored.job for stored in reversed(self._jobs.values()) if stored.job.tenant == tenant]
        ids = [job.job_id for job in own]
        start = 0 if after is None else ids.index(after) + 1
        return own[start : start + limit], len(own) > start + limit

    async def cancel_job(self, tenant: str, job_id: str) -> Job | None:
        if await self.job(tenant, job_id) is None:
            return None
        stored = self._jobs[job_id]
        if not stored.job.status.is_terminal:
            for position in range(len(stored.items)):
                stored.outcomes.setdefault(position, ItemOutcome(status=ItemStatus.CANCELLED))
            self._change(
                stored, status=JobStatus.CANCELLED, cancelling_at_s=self._now_s + 2, ended_at_s=self._now_s + 3
            )
        return stored.job

    async def results(self, tenant: str, job_id: str, after_position: int = -1) -> AsyncIterator[ItemResult]:
        self._require_up()
        stored = self._jobs[job_id]
        assert stored.job.tenant == tenant
        for position, outcome in sorted(stored.outcomes.items()):
            if position > after_position:
                yield ItemResult(position, stored.items[position].custom_id, outcome)

    async def create_file(self, tenant: str, filename: str, purpose: str, content: AsyncIterator[bytes]) -> StoredFile:
        self._require_up()
        data = b"".join([piece async for piece in content])
        file = StoredFile(
            file_id=f"file-{next(self._ids)}",
            tenant=tenant,
            filename=filename,
            purpose=purpose,
            num_bytes=len(data),
            created_at_s=self._now_s,
        )
        self._files[file.file_id] = (file, data)
        return file

    async def file(self, tenant: str, file_id: str) -> StoredFile | None:
        self._require_up()
        file, _ = self._files.get(file_id, (None, b""))
        return file if file is not None and file.tenant == tenant else None

    async def files(self, tenant: str, after: str | None, limit: int) -> tuple[list[StoredFile], bool]:
        self._require_up()
        own = [file for file, _ in reversed(self._files.values()) if file.tenant == tenant]
        start = 0 if after is None else [file.file_id for file in own].index(after) + 1
        return own[start : start + limit], len(own) > start + limit

    async def read_file(self, tenant: str, file_id: str) -> AsyncIterator[bytes]:
        assert await self.file(tenant, file_id) is not None
        _, data = self._files[file_id]
        size = 7 if len(data) < 1 << 16 else 65_537  # pieces begin and end anywhere
        for start in range(0, len(data), size):
            yield data[start : start + size]

    async def delete_file(self, tenant: str, file_id: str) -> bool:
        return await self.file(tenant, file_id) is not None and self._files.pop(file_id, None) is not None

    def unavailable(self) -> StoreUnavailable:
        """What a call is told while the store can't be reached."""
        error = StoreUnavailable("the store is down")
        error.retry_after_s = self.retry_after_s
        return error

    # ---- what a runner does

    def claim(self, job_id: str, position: int, *, attempt: int = 1, progress: Progress = NOTHING) -> Claim:
        """Returns an item as it is given to a runner."""
        stored = self._jobs[job_id]
        item = stored.items[position]
        return Claim(
            job_id=job_id,
            position=position,
            attempt=attempt,
            tenant=stored.job.tenant,
            kind=stored.job.kind,
            custom_id=item.custom_id,
            body=item.body,
            progress=progress,
            lease_ends_at_s=self._now_s + 30,
            expires_at_s=stored.job.expires_at_s,
        )

    def finish(self, job_id: str, position: int, outcome: ItemOutcome) -> None:
        """Records an outcome; the last one ends the job."""
        stored = self._jobs[job_id]
        stored.outcomes[position] = outcome
        statuses = [one.status for one in stored.outcomes.values()]
        counts = ItemCounts(
            total=len(stored.items),
            succeeded=statuses.count(ItemStatus.SUCCEEDED),
            failed=statuses.count(ItemStatus.FAILED),
        )
        self._change(stored, counts=counts)
        if len(stored.outcomes) == len(stored.items):
            self._change(stored, status=JobStatus.COMPLETED, ended_at_s=self._now_s + 3)

    def expire(self, job_id: str) -> None:
        """Ends a job whose window has closed."""
        stored = self._jobs[job_id]
        for position in range(len(stored.items)):
            stored.outcomes.setdefault(position, ItemOutcome(status=ItemStatus.EXPIRED))
        self._change(stored, status=JobStatus.EXPIRED, ended_at_s=self._now_s + 3)

    async def run_all(self, worker: ItemWorker) -> None:
        """Runs all items that wait, one after the other."""
        for job_id, stored in list(self._jobs.items()):
            for position in range(len(stored.items)):
                if position not in stored.outcomes:
                    self.finish(job_id, position, await self._outcome(worker, job_id, position))

    # ---- inside

    async def _outcome(self, worker: ItemWorker, job_id: str, position: int) -> ItemOutcome:
        notes = self.progress.setdefault((job_id, position), [])
        try:
            return await worker.run(self.claim(job_id, position), notes.append)
        except ServiceError as error:
            return ItemOutcome(status=ItemStatus.FAILED, error_code=error.status.name, error_message=str(error))

    def _add(
        self,
        new: NewJob,
        status: JobStatus,
        counts: ItemCounts,
        items: Sequence[NewItem],
        errors: Sequence[LineError] = (),
    ) -> Job:
        job = Job(
            job_id=f"batch_{next(self._ids)}",
            tenant=new.tenant,
            kind=new.kind,
            status=status,
            counts=counts,
            metadata=new.metadata,
            input_file_id=new.input_file_id,
            created_at_s=self._now_s,
            expires_at_s=self._now_s + new.completion_window_s,
            in_progress_at_s=None if errors else self._now_s + 1,
            ended_at_s=self._now_s if errors else None,
            errors=tuple(errors),
        )
        self._jobs[job.job_id] = StoredJob(job, new.idempotency_key, list(items))
        return job

    def _change(self, stored: StoredJob, **changes: object) -> None:
        stored.job = replace(stored.job, **changes)  # type: ignore[arg-type]

    def _require_up(self) -> None:
        if self.is_down:
            raise self.unavailable()
