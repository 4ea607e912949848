"""Runs items of jobs whenever there is room: claims them, has them computed, renews their leases, records their ends.

    store ──claim──▶ running ──▶ ended, not yet written ──finish──▶ store
                        └─ renew with the progress, each 10 s ─▶ store

One task talks to the store, in turns; each item has a task of its own. While the store can't be reached, items go on
and their ends wait. Knows neither bodies nor answers.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Self

from scheduler_svc.jobs.interface import ClaimStore, StoreRefused, StoreUnavailable
from scheduler_svc.jobs.item_worker import ItemWorker
from scheduler_svc.jobs.job import Claim, ItemOutcome, Return
from scheduler_svc.jobs.pull import BestEffortLoad, Pull
from scheduler_svc.jobs.running_item import RunningItem
from scheduler_svc.process.rarely import Rarely

_log = logging.getLogger(__name__)

LEASE_S = 30.0
RENEW_S = 10.0  # a lease outlives two renewals that fail
_BUSY_POLL_S = 0.25
_IDLE_POLL_S = 1.0
_OUTAGE_POLL_S = 2.0
_QUEUES_WITHIN_S = 0.25  # what takes longer, a long text for example, holds up nobody
_PARTING_S = 5.0


class JobRunner:
    """An asynchronous context manager, in which items are run; on leaving, what runs is given back with its progress.

    Args:
        store: Where items come from.
        worker: Computes them.
        load: Tells how much best-effort work there is.
        pull: Decides how many to claim.
        owner: Names this life of this scheduler.
        now_s: Gives a time that only grows, in seconds.
    """

    def __init__(
        self,
        store: ClaimStore,
        worker: ItemWorker,
        load: Callable[[], BestEffortLoad],
        pull: Pull,
        owner: str,
        now_s: Callable[[], float],
    ) -> None:
        self._store = store
        self._worker = worker
        self._load = load
        self._pull = pull
        self._owner = owner
        self._now_s = now_s
        self._running: dict[tuple[str, int], RunningItem] = {}
        self._tasks: dict[asyncio.Task[None], RunningItem] = {}
        self._ends: list[tuple[Claim, ItemOutcome]] = []
        self._returns: list[Return] = []
        self._over_quota: dict[str, float] = {}  # tenants, and until when
        self._renew_at_s = -float("inf")
        self._is_stopping = False
        self._wakened = asyncio.Event()
        self._rarely = Rarely(clock=now_s)

    @property
    def num_running(self) -> int:
        """Items that run here."""
        return len(self._running)

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self._run(), name="job-runner")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._is_stopping = True
        self._wakened.set()
        await asyncio.wait((self.task,), timeout=2 * _PARTING_S)
        if self.task.cancel():  # the store does not answer
            await asyncio.wait((self.task,))
            _log.error("items_left num=%d reason=%r", len(self._running), "the store did not answer")

    def wake(self) -> None:
        """Has the store asked at once: a job was added."""
        self._wakened.set()

    def renew_now(self) -> None:
        """Has leases renewed at once, by which what was cancelled stops."""
        self._renew_at_s = -float("inf")
        self._wakened.set()

    async def turn(self) -> float:
        """Writes what ended, renews what is due and claims what there is room for.

        While the store can't be reached, which is logged once a minute, nothing is claimed and nothing is lost. Returns
        in how many seconds to do so again.
        """
        try:
            await self._write_ends()
            await self._renew()
            await self._claim()
        except (StoreUnavailable, StoreRefused) as error:
            if self._rarely.is_due():
                num_waiting = len(self._ends) + len(self._returns)
                _log.error(
                    "job_store_unavailable num_running=%d num_ended=%d reason=%r",
                    self.num_running,
                    num_waiting,
                    str(error),
                )
            return _OUTAGE_POLL_S
        return _BUSY_POLL_S if self._running else _IDLE_POLL_S

    async def part(self) -> None:
        """Stops what runs, records what ended and gives the rest back; what can't be is free when its lease ends."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait([*self._tasks])
        self._returns += [Return(item.claim, item.progress) for item in self._running.values()]
        self._running.clear()
        try:
            async with asyncio.timeout(_PARTING_S):
                await self._write_ends()
        except (StoreUnavailable, StoreRefused, TimeoutError) as error:
            num_left = len(self._ends) + len(self._returns)
            _log.error("items_left num=%d reason=%r", num_left, str(error))

    # ---- inside

    async def _run(self) -> None:
        try:
            while not self._is_stopping:
                self._wakened.clear()
                wait_s = await self.turn()
                if not self._is_stopping:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._wakened.wait(), wait_s)
            await self.part()
        finally:
            for task in self._tasks:
                task.cancel()

    async def _write_ends(self) -> None:
        if ends := [*self._ends]:
            refused = await self._store.finish(self._owner, ends)
            del self._ends[: len(ends)]  # others may have ended meanwhile
            for claim in refused:
                _log.warning("outcome_refused job_id=%s position=%d", claim.job_id, claim.position)
        if returns := [*self._returns]:
            lost = await self._store.give_back(self._owner, returns)
            del self._returns[: len(returns)]
            for claim in lost:
                _log.warning("item_lost job_id=%s position=%d", claim.job_id, claim.position)

    async def _renew(self) -> None:
        now_s = self._now_s()
        if now_s < self._renew_at_s:
            return
        self._renew_at_s = now_s + RENEW_S
        try:
            await self._store.expire()
            held = [(item.claim, item.progress) for item in self._running.values()]
            over = await self._store.renew(self._owner, held, LEASE_S) if held else []
        except (StoreUnavailable, StoreRefused):
            self._renew_at_s = -float("inf")
            raise
        for claim in over:
            _log.info("item_stopped job_id=%s position=%d", claim.job_id, claim.position)
            self._drop(claim)
        await self._store.clean()

    async def _claim(self) -> None:
        now_s = self._now_s()
        if self._is_stopping or any(_is_preparing(item, now_s) for item in self._running.values()):
            return
        num_wanted = self._pull.number(self._load(), self.num_running, now_s)
        if not num_wanted:
            return
        self._over_quota = {tenant: until_s for tenant, until_s in self._over_quota.items() if until_s > now_s}
        claims = await self._store.claim(self._owner, num_wanted, LEASE_S, [*self._over_quota])
        self._pull.claimed(num_wanted, len(claims))
        for claim in claims:
            self._drop(claim)  # an earlier attempt, whose lease ended while nothing was done here
            self._begin(RunningItem(claim, now_s, self._wakened.set))

    def _begin(self, item: RunningItem) -> None:
        self._running[item.claim.job_id, item.claim.position] = item
        task = asyncio.create_task(self._run_item(item), name=f"item-{item.claim.job_id}-{item.claim.position}")
        self._tasks[task] = item
        task.add_done_callback(self._tasks.pop)

    async def _run_item(self, item: RunningItem) -> None:
        ended = await item.run(self._worker)
        key = item.claim.job_id, item.claim.position
        if self._running.get(key) is not item:  # it was dropped
            return
        del self._running[key]
        if isinstance(ended, Return):
            self._returns.append(ended)
            self._wait(ended)
        else:
            self._ends.append((item.claim, ended))
        self._wakened.set()

    def _wait(self, back: Return) -> None:
        """Claims nothing, or nothing of its tenant, for as long as an item was told to wait."""
        until_s = self._now_s() + back.delay_s
        if back.is_over_quota:
            self._over_quota[back.claim.tenant] = until_s
        elif not back.has_failed:
            self._pull.pause(until_s)

    def _drop(self, claim: Claim) -> None:
        """Stops an attempt whose outcome nobody wants."""
        item = self._running.pop((claim.job_id, claim.position), None)
        for task in [task for task, owner in self._tasks.items() if owner is item]:
            task.cancel()


def _is_preparing(item: RunningItem, now_s: float) -> bool:
    """Whether it is about to be queued, so that its work does not count yet."""
    return not item.is_queued and now_s - item.began_s < _QUEUES_WITHIN_S
