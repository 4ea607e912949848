"""An ItemWorker whose items end when the test says so, and a store that can be out of reach."""

import asyncio
from collections.abc import Collection, Iterable

from scheduler_svc.jobs.interface import ClaimStore, StoreUnavailable
from scheduler_svc.jobs.item_worker import OnProgress
from scheduler_svc.jobs.job import Claim, ItemOutcome, Progress, Return


class Attempt:
    """An attempt at an item that waits for the test."""

    def __init__(self, claim: Claim, on_progress: OnProgress) -> None:
        self.claim = claim
        self.on_progress = on_progress
        self.end: asyncio.Future[ItemOutcome] = asyncio.get_running_loop().create_future()


class FakeItemWorker:
    """Queues each item at once, and says what the test says.

    Attributes:
        attempts: By position of the item; those of one at a time.
        started: All attempts that there ever were.
        errors: What is raised at once, for the first attempts.
    """

    def __init__(self) -> None:
        self.attempts: dict[int, Attempt] = {}
        self.started: list[Claim] = []
        self.num_cancelled = 0
        self.errors: list[Exception] = []

    async def run(self, claim: Claim, on_progress: OnProgress) -> ItemOutcome:
        self.started.append(claim)
        if self.errors:
            raise self.errors.pop(0)
        attempt = self.attempts[claim.position] = Attempt(claim, on_progress)
        on_progress(claim.progress)
        try:
            return await attempt.end
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        finally:
            if self.attempts.get(claim.position) is attempt:
                del self.attempts[claim.position]


class StoreWithOutages:
    """A store that can't be reached while the test says so."""

    def __init__(self, store: ClaimStore) -> None:
        self._store = store
        self.is_out = False

    async def claim(self, owner: str, limit: int, lease_s: float, but_of: Collection[str] = ()) -> list[Claim]:
        return await self._reached().claim(owner, limit, lease_s, but_of)

    async def renew(self, owner: str, claims: Iterable[tuple[Claim, Progress]], lease_s: float) -> list[Claim]:
        return await self._reached().renew(owner, claims, lease_s)

    async def finish(self, owner: str, ends: Iterable[tuple[Claim, ItemOutcome]]) -> list[Claim]:
        return await self._reached().finish(owner, ends)

    async def give_back(self, owner: str, returns: Iterable[Return]) -> list[Claim]:
        return await self._reached().give_back(owner, returns)

    async def expire(self) -> None:
        await self._reached().expire()

    async def clean(self) -> None:
        await self._reached().clean()

    def _reached(self) -> ClaimStore:
        if self.is_out:
            raise StoreUnavailable("it is away")
        return self._store
