"""The store of jobs: what front ends and the runner ask for, each as a transaction that the event loop waits for.

It owns the time (`clock`) that leases and windows are measured by, and who is told of new work. What a transaction does
is said in the modules beside this one.
"""

import contextlib
import math
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

from scheduler_svc.errors import Amount, InvalidRequest
from scheduler_svc.jobs.chunks import chunks_of
from scheduler_svc.jobs.interface import StoreUnavailable
from scheduler_svc.jobs.job import (
    Claim,
    ItemOutcome,
    ItemResult,
    ItemStatus,
    Job,
    LineError,
    NewItem,
    NewJob,
    Progress,
    Return,
    StoredFile,
)
from scheduler_svc.jobs.limits import require_file_bytes, require_filename
from scheduler_svc.jobs.store import claims as claim_table
from scheduler_svc.jobs.store import cleaning, file_table, intake, job_table
from scheduler_svc.jobs.store.database import Act, Database
from scheduler_svc.jobs.store.endings import Ended
from scheduler_svc.jobs.store.engines import Engines, postgresql_engines, sqlite_engines
from scheduler_svc.jobs.store.ids import new_id
from scheduler_svc.jobs.store.migrate import migrate

_RESULTS_AT_ONCE = 32  # with answers of up to some MiB each
_ERRORS_KEPT = 1000
_CLEANED_AT_ONCE = 20  # parts of jobs, or files: leases are renewed in between

T = TypeVar("T")


def _ignore(*_what: object) -> None:
    pass


class JobStore:
    """Implements `JobFrontDoor` and `ClaimStore`.

    Args:
        engines: Connect to the database; closed with this.
        clock: Gives the time in seconds since 1970. Where schedulers share a database, theirs should agree within a
            few seconds, since leases end by it.
        keep_s: For how long jobs are kept once they have ended, and files once they came; None: for ever.
    """

    def __init__(self, engines: Engines, clock: Callable[[], float] = time.time, keep_s: float | None = None) -> None:
        self._clock = clock
        self._database = Database(engines, lambda: migrate(engines.writing))
        self._keep_s = keep_s
        self.listen()

    @classmethod
    def in_directory(
        cls, directory: Path, clock: Callable[[], float] = time.time, keep_s: float | None = None
    ) -> "JobStore":
        """Returns the store in a directory, in SQLite; raises StoreRefused if it can't be there."""
        return cls(sqlite_engines(directory), clock, keep_s)

    @classmethod
    def at_url(cls, url: str, clock: Callable[[], float] = time.time, keep_s: float | None = None) -> "JobStore":
        """Returns the store at a URL of PostgreSQL; raises StoreRefused if it is none, or its packages are missing."""
        return cls(postgresql_engines(url), clock, keep_s)

    async def open(self) -> None:
        """Makes sure that the tables are there; without it the first call does.

        Raises:
            StoreUnavailable: The database can't be reached; what is called later tries again.
            StoreRefused: It holds the tables of a later version.
        """
        await self._database.write(lambda _: None)

    async def close(self) -> None:
        """Carries out what was asked for, and closes the connections."""
        await self._database.close()

    def listen(
        self,
        on_added: Callable[[], None] = _ignore,
        on_cancelled: Callable[[], None] = _ignore,
        on_ended: Callable[[ItemStatus, int], None] = _ignore,
    ) -> None:
        """Has these called on the event loop: after each job that this process adds or cancels, and with what it ended.

        Args:
            on_added: A job was added.
            on_cancelled: One was cancelled.
            on_ended: So many items ended so, by a commit of this process.
        """
        self._on_added, self._on_cancelled, self._on_ended = on_added, on_cancelled, on_ended

    @property
    def keep_s(self) -> float | None:
        """For how long ended jobs, and files, are kept; None: for ever."""
        return self._keep_s

    # ---- JobFrontDoor: jobs

    async def create_job(self, job: NewJob, items: AsyncIterable[NewItem]) -> Job:
        """Accepts a job; returns after the commit. A large one comes in over several, of which the last one counts."""
        job_id = new_id("batch", self._clock())
        async with aclosing(chunks_of(items)) as chunks:
            first, second = await anext(chunks, None), await anext(chunks, None)
            if first is None:
                raise InvalidRequest("items", Amount(0, "items"), "at least one item")
            if second is None:
                now_s, write = self._clock(), self._database.write
                created = await write(lambda db: intake.create(db, job_id, job, first, now_s))
            else:
                created = await self._write_in_parts(job_id, job, first, second, chunks)
        self._on_added()
        return created

    async def fail_job(self, job: NewJob, errors: Sequence[LineError]) -> Job:
        """Records a job whose input can't be run, as FAILED, with the first 1,000 errors."""
        now_s = self._clock()
        job_id = new_id("batch", now_s)
        return await self._database.write(lambda db: intake.fail(db, job_id, job, errors[:_ERRORS_KEPT], now_s))

    async def job_of_key(self, tenant: str, key: str) -> Job | None:
        """Returns the job that a tenant made with a key; None if there is none."""
        return await self._database.read(lambda db: job_table.of_key(db, tenant, key))

    async def job(self, tenant: str, job_id: str) -> Job | None:
        """Returns a job; None if the tenant has none of that id."""
        return await self._database.read(lambda db: job_table.get(db, tenant, job_id))

    async def jobs(self, tenant: str, after: str | None, limit: int) -> tuple[list[Job], bool]:
        """Returns jobs, newest first, those older than `after`; and whether there are more."""
        return await self._database.read(lambda db: job_table.newest(db, tenant, after, limit))

    async def cancel_job(self, tenant: str, job_id: str) -> Job | None:
        """Cancels a job; what runs of it ends when its scheduler renews its lease, or with the lease."""
        now_s = self._clock()
        cancelled = await self._ending(lambda db: job_table.cancel(db, tenant, job_id, now_s))
        self._on_cancelled()
        return cancelled

    async def results(self, tenant: str, job_id: str, after_position: int = -1) -> AsyncIterator[ItemResult]:
        """Yields the ended items as they stand, by position, those behind `after_position`."""
        while True:
            found = await self._results(tenant, job_id, after_position)
            for result in found:
                yield result
                after_position = result.position
            if len(found) < _RESULTS_AT_ONCE:
                return

    # ---- JobFrontDoor: files

    async def create_file(self, tenant: str, filename: str, purpose: str, content: AsyncIterator[bytes]) -> StoredFile:
        """Keeps a file; returns after the commit."""
        require_filename("file", filename)
        now_s = self._clock()
        file = StoredFile(
            file_id=new_id("file", now_s),
            tenant=tenant,
            filename=filename,
            purpose=purpose,
            num_bytes=0,
            created_at_s=now_s,
        )
        try:
            await self._database.write(lambda db: file_table.begin(db, file))
            num_bytes = await self._write_pieces(file.file_id, content)
            return await self._database.write(lambda db: file_table.complete(db, tenant, file.file_id, num_bytes))
        except BaseException:  # cancelled, too: nobody waits for what came
            await self._drop_what_came(file)
            raise

    async def file(self, tenant: str, file_id: str) -> StoredFile | None:
        """Returns what is known of a file; None if the tenant has none of that id."""
        return await self._database.read(lambda db: file_table.get(db, tenant, file_id))

    async def files(self, tenant: str, after: str | None, limit: int) -> tuple[list[StoredFile], bool]:
        """Returns files, newest first, those older than `after`; and whether there are more."""
        return await self._database.read(lambda db: file_table.newest(db, tenant, after, limit))

    async def read_file(self, tenant: str, file_id: str) -> AsyncIterator[bytes]:
        """Yields a file's bytes in pieces; it ends early if the file is deleted meanwhile."""
        number = 0
        while content := await self._piece(tenant, file_id, number):
            yield content
            number += 1

    async def delete_file(self, tenant: str, file_id: str) -> bool:
        """Deletes a file; False if the tenant has none of that id."""
        return await self._database.write(lambda db: file_table.drop(db, tenant, file_id))

    # ---- ClaimStore

    async def claim(self, owner: str, limit: int, lease_s: float, but_of: Collection[str] = ()) -> list[Claim]:
        """Claims items that wait, or whose lease is over, oldest job first, but none of some tenants."""
        return await self._database.write(
            lambda db: claim_table.claim(db, owner, limit, lease_s, self._clock(), but_of)
        )

    async def renew(self, owner: str, claims: Iterable[tuple[Claim, Progress]], lease_s: float) -> list[Claim]:
        """Renews leases and keeps progress; returns the claims that need not be run any more."""
        held = [*claims]
        return await self._ending(lambda db: claim_table.renew(db, owner, held, lease_s, self._clock()))

    async def finish(self, owner: str, ends: Iterable[tuple[Claim, ItemOutcome]]) -> list[Claim]:
        """Records outcomes; returns the claims whose outcome was refused."""
        ended = [*ends]
        return await self._ending(lambda db: claim_table.finish(db, owner, ended, self._clock()))

    async def give_back(self, owner: str, returns: Iterable[Return]) -> list[Claim]:
        """Gives items back with their progress; returns the claims that were lost."""
        given = [*returns]
        return await self._ending(lambda db: claim_table.give_back(db, owner, given, self._clock()))

    async def expire(self) -> None:
        """Ends what is past its completion window, and stopped items whose owner is gone."""
        while await self._ending(lambda db: claim_table.expire(db, self._clock())):
            pass

    async def clean(self) -> None:
        """Deletes jobs and files that were kept long enough, and what never came whole, a little each time."""
        before_s = -math.inf if self._keep_s is None else self._clock() - self._keep_s
        while await self._database.write(lambda db: cleaning.hide_old_jobs(db, before_s)):
            pass
        for _ in range(_CLEANED_AT_ONCE):
            if not await self._database.write(lambda db: cleaning.clean(db, self._clock(), before_s)):
                return

    async def end_leases(self) -> int:
        """Ends all leases; returns how many: for whoever knows that their owners are gone, or does not need them."""
        return await self._database.write(lambda db: claim_table.end_leases(db, self._clock()))

    # ---- inside

    async def _write_in_parts(
        self,
        job_id: str,
        job: NewJob,
        first: Sequence[NewItem],
        second: Sequence[NewItem],
        further: AsyncIterator[Sequence[NewItem]],
    ) -> Job:
        write = self._database.write
        try:
            await write(lambda db: intake.begin(db, job_id, job, self._clock()))
            num_items = await self._add_items(job_id, 0, first)
            num_items = await self._add_items(job_id, num_items, second)
            async for chunk in further:
                num_items = await self._add_items(job_id, num_items, chunk)
            return await write(lambda db: intake.accept(db, job_id, job, num_items, self._clock()))
        except BaseException:  # cancelled, too: nobody waits for what came; where this fails, `clean` does it later
            with contextlib.suppress(StoreUnavailable):
                await write(lambda db: intake.give_up(db, job_id, self._clock()))
            raise

    async def _add_items(self, job_id: str, position: int, chunk: Sequence[NewItem]) -> int:
        """Adds items; returns the position behind them."""
        await self._database.write(lambda db: intake.add_items(db, job_id, position, chunk))
        return position + len(chunk)

    async def _ending(self, act: Act[tuple[T, Ended]]) -> T:
        """Writes what may end items, and tells how many ended how once it is committed."""
        result, ended = await self._database.write(act)
        for status, number in ended.items():
            self._on_ended(status, number)
        return result

    async def _write_pieces(self, file_id: str, content: AsyncIterator[bytes]) -> int:
        """Writes content as it comes, in pieces of one size; returns how many bytes came."""
        waiting, number, num_bytes = bytearray(), 0, 0
        async for some in content:
            num_bytes += len(some)
            require_file_bytes(num_bytes)
            waiting += some
            while len(waiting) >= file_table.PIECE_BYTES:
                await self._add_piece(file_id, number, bytes(waiting[: file_table.PIECE_BYTES]))
                del waiting[: file_table.PIECE_BYTES]
                number += 1
        if waiting:
            await self._add_piece(file_id, number, bytes(waiting))
        return num_bytes

    async def _add_piece(self, file_id: str, number: int, piece: bytes) -> None:
        await self._database.write(lambda db: file_table.add_piece(db, file_id, number, piece))

    async def _results(self, tenant: str, job_id: str, after: int) -> list[ItemResult]:
        return await self._database.read(lambda db: job_table.results(db, tenant, job_id, after, _RESULTS_AT_ONCE))

    async def _piece(self, tenant: str, file_id: str, number: int) -> bytes | None:
        return await self._database.read(lambda db: file_table.piece(db, tenant, file_id, number))

    async def _drop_what_came(self, file: StoredFile) -> None:
        """Deletes a file that did not come whole; where that fails, `clean` does it a day later."""
        with contextlib.suppress(StoreUnavailable):
            await self._database.write(lambda db: file_table.drop(db, file.tenant, file.file_id))
