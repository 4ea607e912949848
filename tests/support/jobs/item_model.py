"""What a store of jobs promises, as plain as it can be said: a dictionary, and no database."""

from dataclasses import dataclass, field

from scheduler_svc.jobs.job import Claim, ItemOutcome, ItemStatus, JobStatus, Progress, Return

PENDING, RUNNING = ItemStatus.PENDING, ItemStatus.RUNNING


@dataclass(slots=True)
class ModelItem:
    """An item, as the store should have it."""

    due_s: float
    status: ItemStatus = PENDING
    owner: str = ""
    attempt: int = 0
    num_failures: int = 0
    progress: Progress = field(default_factory=Progress)
    stop_as: ItemStatus | None = None
    outcome: ItemOutcome | None = None

    @property
    def is_open(self) -> bool:
        return self.status in (PENDING, RUNNING)

    def end(self, outcome: ItemOutcome) -> None:
        assert self.outcome is None, "it has an outcome already"
        self.status, self.outcome = outcome.status, outcome


@dataclass(slots=True)
class ModelJob:
    """A job, as the store should have it."""

    expires_s: float
    items: list[ModelItem]
    status: JobStatus = JobStatus.IN_PROGRESS

    def stop(self, as_: ItemStatus) -> None:
        for item in self.items:
            if item.is_open:
                item.stop_as = as_
            if item.status is PENDING:
                item.end(ItemOutcome(status=as_))

    def settle(self) -> None:
        if self.status.is_terminal or any(item.is_open for item in self.items):
            return
        has_expired = any(item.status is ItemStatus.EXPIRED for item in self.items)
        ends = {
            JobStatus.CANCELLING: JobStatus.CANCELLED,
            JobStatus.FINALIZING: JobStatus.EXPIRED if has_expired else JobStatus.COMPLETED,
        }
        self.status = ends.get(self.status, JobStatus.COMPLETED)


@dataclass(slots=True)
class ItemModel:
    """All jobs; job ids sort by age."""

    jobs: dict[str, ModelJob] = field(default_factory=dict)

    def claim(self, owner: str, limit: int, lease_s: float, now_s: float) -> list[tuple[str, int, int]]:
        due = [
            (job_id, position, item)
            for job_id, job in sorted(self.jobs.items())
            for position, item in enumerate(job.items)
            if item.is_open and item.due_s <= now_s and item.stop_as is None
        ]
        for _, _, item in due[:limit]:
            item.status, item.owner, item.due_s = RUNNING, owner, now_s + lease_s
            item.attempt += 1
        return [(job_id, position, item.attempt) for job_id, position, item in due[:limit]]

    def renew(self, owner: str, claim: Claim, progress: Progress, due_s: float) -> bool:
        """Returns whether the claim is held on to."""
        item = self._held(owner, claim)
        if item is None or self._end_stopped(claim, item):
            return False
        item.due_s, item.progress = due_s, progress
        return True

    def finish(self, owner: str, claim: Claim, outcome: ItemOutcome) -> bool:
        """Returns whether the outcome is recorded, now or before."""
        item = self._held(owner, claim)
        if item is None:
            before = self.jobs[claim.job_id].items[claim.position]
            return (before.owner, before.attempt, before.status) == (owner, claim.attempt, outcome.status)
        item.end(outcome)
        self.jobs[claim.job_id].settle()
        return True

    def give_back(self, owner: str, back: Return, now_s: float) -> bool:
        """Returns whether it was the owner's to give."""
        item = self._held(owner, back.claim)
        if item is None:
            return False
        if not self._end_stopped(back.claim, item):
            item.status, item.owner, item.due_s, item.progress = PENDING, "", now_s + back.delay_s, back.progress
            item.num_failures += back.has_failed
        return True

    def cancel(self, job_id: str) -> None:
        job = self.jobs[job_id]
        if job.status is JobStatus.IN_PROGRESS:
            job.status = JobStatus.CANCELLING
            job.stop(ItemStatus.CANCELLED)
            job.settle()

    def expire(self, now_s: float) -> None:
        for job in self.jobs.values():
            if job.status is JobStatus.IN_PROGRESS and job.expires_s <= now_s:
                job.status = JobStatus.FINALIZING
                job.stop(ItemStatus.EXPIRED)
            for item in job.items:
                if item.status is RUNNING and item.stop_as is not None and item.due_s <= now_s:
                    item.end(ItemOutcome(status=item.stop_as))
            job.settle()

    def _held(self, owner: str, claim: Claim) -> ModelItem | None:
        item = self.jobs[claim.job_id].items[claim.position]
        is_held = (item.status, item.owner, item.attempt) == (RUNNING, owner, claim.attempt)
        return item if is_held else None

    def _end_stopped(self, claim: Claim, item: ModelItem) -> bool:
        if item.stop_as is None:
            return False
        item.end(ItemOutcome(status=item.stop_as))
        self.jobs[claim.job_id].settle()
        return True
