"""What front ends and the runner need of a store of jobs. A call that changes something returns after its commit."""

from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Sequence
from typing import Protocol

import grpc

from scheduler_svc.errors import RETRY_S, Refusal, ServiceError, jittered
from scheduler_svc.jobs.job import (
    Claim,
    ItemOutcome,
    ItemResult,
    Job,
    LineError,
    NewItem,
    NewJob,
    Progress,
    Return,
    StoredFile,
)


class JobFrontDoor(Protocol):
    """What the APIs call. A tenant sees its own jobs and files only; those of others are not found.

    All methods raise StoreUnavailable when the store can't be reached.
    """

    @property
    def keep_s(self) -> float | None:
        """For how long jobs are kept once they have ended, and files once they came; None: for ever."""

    async def create_job(self, job: NewJob, items: AsyncIterable[NewItem]) -> Job:
        """Accepts a job; returns after the commit. The same key of the same tenant gives the first job again.

        What the job says of itself and of its items is within `jobs.limits` already. Nothing is accepted if `items`
        raises, which is raised here.

        Raises:
            InvalidRequest: There is no item.
        """

    async def job_of_key(self, tenant: str, key: str) -> Job | None:
        """Returns the job that a tenant made with a key; None if there is none."""

    async def fail_job(self, job: NewJob, errors: Sequence[LineError]) -> Job:
        """Records a job whose input can't be run, as FAILED."""

    async def job(self, tenant: str, job_id: str) -> Job | None:
        """Returns a job; None if the tenant has none of that id."""

    async def jobs(self, tenant: str, after: str | None, limit: int) -> tuple[list[Job], bool]:
        """Returns jobs, newest first, those older than `after`; and whether there are more."""

    async def cancel_job(self, tenant: str, job_id: str) -> Job | None:
        """Cancels a job; one that has ended stays as it is. None if the tenant has none of that id."""

    def results(self, tenant: str, job_id: str, after_position: int = -1) -> AsyncIterator[ItemResult]:
        """Yields the ended items as they stand, by position, those behind `after_position`.

        There are none of a job that the tenant does not have.
        """

    async def create_file(self, tenant: str, filename: str, purpose: str, content: AsyncIterator[bytes]) -> StoredFile:
        """Keeps a file; returns after the commit. What came of a file that did not come whole is dropped.

        Raises:
            InvalidRequest: It is too large.
        """

    async def file(self, tenant: str, file_id: str) -> StoredFile | None:
        """Returns what is known of a file; None if the tenant has none of that id."""

    async def files(self, tenant: str, after: str | None, limit: int) -> tuple[list[StoredFile], bool]:
        """Returns files, newest first; and whether there are more."""

    def read_file(self, tenant: str, file_id: str) -> AsyncIterator[bytes]:
        """Yields a file's bytes in pieces; none of a file that the tenant does not have."""

    async def delete_file(self, tenant: str, file_id: str) -> bool:
        """Deletes a file; False if the tenant has none of that id."""


class ClaimStore(Protocol):
    """What the runner calls. `owner` names one life of one scheduler.

    All methods raise StoreUnavailable when the store can't be reached; they may then have taken effect, and may be
    called again.
    """

    async def claim(self, owner: str, limit: int, lease_s: float, but_of: Collection[str] = ()) -> list[Claim]:
        """Claims items that wait, or whose lease is over, oldest job first, but none of some tenants."""

    async def renew(self, owner: str, claims: Iterable[tuple[Claim, Progress]], lease_s: float) -> list[Claim]:
        """Renews leases and keeps progress, in one commit; returns the claims that need not be run any more.

        Those were lost to another owner, or their job was cancelled or ran out of its window: then they end by this.
        """

    async def finish(self, owner: str, ends: Iterable[tuple[Claim, ItemOutcome]]) -> list[Claim]:
        """Records outcomes, in one commit; returns the claims whose outcome was refused, as they were lost."""

    async def give_back(self, owner: str, returns: Iterable[Return]) -> list[Claim]:
        """Gives items back with their progress, in one commit; returns the claims that were lost."""

    async def expire(self) -> None:
        """Ends what is past its completion window, and stopped items whose owner is gone."""

    async def clean(self) -> None:
        """Deletes some of what was kept long enough, and of what never came whole."""


class StoreUnavailable(ServiceError):
    """The store of jobs can't be reached."""

    status = grpc.StatusCode.UNAVAILABLE
    refusal = Refusal.OTHER

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.retry_after_s = jittered(RETRY_S)


class StoreRefused(Exception):
    """The store can't be what was asked for, now or later; the message says what was given and why not."""
