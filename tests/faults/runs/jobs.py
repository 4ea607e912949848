"""Kills schedulers at random while jobs come in and run: whether each job that was accepted is done, once, and rightly.

    one scheduler on SQLite            killed, again and again
    two schedulers on one PostgreSQL   killed at random, each by itself; the database is killed under them;
                                       now and then one stands still for longer than its leases, and then goes on

Each life gets its share of the jobs, so that there is no kill without creates, claims and outcomes to hit. A third of
the kills hit a scheduler that is still starting.
"""

import asyncio
import contextlib
import random
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import grpc

from scheduler_svc.jobs.runner import LEASE_S
from tests.faults import plans
from tests.faults.checker.jobs import JobsVerdict, judge_jobs
from tests.faults.harness.job_clients import JobClients
from tests.faults.harness.job_load import ended_jobs, with_results
from tests.faults.harness.job_store import Attempts, StoreOfJobs, postgresql_store, sqlite_store
from tests.faults.harness.service import Service, Settings, until
from tests.faults.job_records import FoundResult, JobRecord
from tests.faults.plans import References

_MOST_ITEMS = 3
_SHARE_WITHOUT_KEY = 0.3
_SHARE_ASKED_TWICE = 0.1
_MOST_LIFE_S = 1.5
_MOST_CREATING_S = 0.06
_SHARE_KILLED_AT_START = 1 / 3
_MOST_START_S = 2.0
_STANDS_STILL_S = LEASE_S + 10
_MOST_AWAY_S = 1.0
_ITEMS_RUN_WITHIN_S = 60.0
_READ_EVERY_S = 0.05
_FENCED = re.compile(r"\b(?:outcome_refused|item_lost|item_stopped)\b")


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much happens.

    Attributes:
        num_kills: Of schedulers, all together.
        num_clients: Clients that ask for one job after the other.
        end_s: How long what is left may take once nobody is killed any more.
        num_restarts: Kills of PostgreSQL; 0: the store is SQLite, and there is one scheduler.
        num_stills: How often a scheduler stands still for longer than its leases.
    """

    num_jobs: int = 5000
    num_kills: int = 100
    num_clients: int = 8
    end_s: float = 300.0
    num_restarts: int = 0
    num_stills: int = 0


ON_SQLITE = Amounts()
ON_POSTGRESQL = Amounts(num_restarts=10, num_stills=2)


@dataclass(slots=True)
class JobsResult:
    """What became of a run.

    Attributes:
        happened: How often what was done to schedulers and the database.
        num_fenced: Writes that were refused, or not made, as the item was another's by then.
        problems: What was wrong with the run itself.
    """

    verdict: JobsVerdict = field(default_factory=JobsVerdict)
    happened: Counter[str] = field(default_factory=Counter)
    attempts: Attempts = field(default_factory=Attempts)
    num_fenced: int = 0
    took_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was wrong, and there was something that could have been."""
        return bool(self.happened) and self.verdict.num_acknowledged > 0 and not (self.verdict.flaws or self.problems)


async def run_jobs(
    settings: Settings, amounts: Amounts, *, seed: int = 0, tell: Callable[[str], None] = lambda _: None
) -> JobsResult:
    """Runs it, and judges every job."""
    begun_s = time.monotonic()
    with postgresql_store() if amounts.num_restarts else sqlite_store() as store:
        async with AsyncExitStack() as stack:
            number = 2 if amounts.num_restarts else 1
            services = [await stack.enter_async_context(Service(settings, store)) for _ in range(number)]
            run = _JobsRun(services, store, amounts, random.Random(seed), tell)
            await run.run()
            run.result.attempts = store.attempts()
            run.result.num_fenced = sum(len(_FENCED.findall(service.log)) for service in services)
            if amounts.num_stills and not run.result.num_fenced:
                run.result.problems.append("nothing was fenced off, so that nothing was proved of it")
    run.result.took_s = time.monotonic() - begun_s
    return run.result


class _JobsRun:
    """One run over services that serve."""

    def __init__(
        self,
        services: list[Service],
        store: StoreOfJobs,
        amounts: Amounts,
        rng: random.Random,
        tell: Callable[[str], None],
    ) -> None:
        self._services = services
        self._store = store
        self._amounts = amounts
        self._rng = rng
        self._tell = tell
        self._references = References()
        self._records = [self._new_record(number) for number in range(amounts.num_jobs)]
        self._waiting = iter(self._records)
        self._allowed = asyncio.Semaphore(0)
        self._nobody_stands_still = asyncio.Event()
        self._nobody_stands_still.set()
        self._seen: dict[tuple[str, int], FoundResult] = {}
        self.result = JobsResult()

    async def run(self) -> None:
        """Lets everything happen, waits for the rest, and judges."""
        await self._references.learn(self._services[0].address, plans.JOB_ITEMS)
        async with JobClients([service.address for service in self._services], self._rng) as clients:
            asking = [asyncio.create_task(self._ask(clients)) for _ in range(self._amounts.num_clients)]
            async with self._read_meanwhile(clients):
                await self._do_bad_things()
                for _ in range(self._amounts.num_jobs + self._amounts.num_clients):
                    self._allowed.release()
                await self._wait_for(asking)
                jobs = await with_results(clients, await ended_jobs(clients, self._amounts.end_s))
            self.result.verdict = judge_jobs(self._records, jobs, self._seen, self._references.of)

    # ---- clients

    def _new_record(self, number: int) -> JobRecord:
        items = tuple(self._rng.choice(plans.JOB_ITEMS) for _ in range(self._rng.randint(1, _MOST_ITEMS)))
        key = "" if self._rng.random() < _SHARE_WITHOUT_KEY else f"key-{number}"
        return JobRecord(f"job-{number}", items, key)

    async def _ask(self, clients: JobClients) -> None:
        """Asks for jobs as they are allowed; for some twice, as if the answer had been lost on its way."""
        for record in self._waiting:
            await self._allowed.acquire()
            await clients.submit(record)
            if record.key and self._rng.random() < _SHARE_ASKED_TWICE:
                await clients.submit(record)

    @asynccontextmanager
    async def _read_meanwhile(self, clients: JobClients) -> AsyncIterator[None]:
        """Reads results of jobs that were acknowledged: what was seen once must not change."""

        async def read() -> None:
            while True:
                await asyncio.sleep(_READ_EVERY_S)
                ids = [batch_id for record in self._records for batch_id in record.batch_ids[:1]]
                if not ids:
                    continue
                batch_id = self._rng.choice(ids)
                with contextlib.suppress(grpc.aio.AioRpcError):
                    async for result in clients.results(batch_id):
                        self._seen.setdefault((batch_id, result.position), result)

        reading = asyncio.create_task(read())
        try:
            yield
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading

    async def _wait_for(self, asking: Iterable[asyncio.Task[None]]) -> None:
        done, hung = await asyncio.wait(asking, timeout=self._amounts.end_s)
        for task in hung:
            task.cancel()
        if hung:
            self.result.problems.append(f"{len(hung)} clients were not answered")
        for task in done:
            task.result()

    # ---- what happens to schedulers and the database

    async def _do_bad_things(self) -> None:
        amounts, num = self._amounts, len(self._services)
        async with asyncio.TaskGroup() as group:
            for number, service in enumerate(self._services):
                num_kills = amounts.num_kills // num + (number < amounts.num_kills % num)
                num_stills = amounts.num_stills // num + (number < amounts.num_stills % num)
                group.create_task(self._kill_again_and_again(service, num_kills, num_stills))
            if amounts.num_restarts:
                group.create_task(self._restart_database())

    async def _kill_again_and_again(self, service: Service, num_kills: int, num_stills: int) -> None:
        deeds = ["killed"] * num_kills + ["stood still"] * num_stills
        self._rng.shuffle(deeds)
        for deed in deeds:
            await self._nobody_stands_still.wait()
            self._allow_share()
            await asyncio.sleep(self._rng.uniform(0, _MOST_LIFE_S))
            self._allow_share()  # so that calls are under way
            await asyncio.sleep(self._rng.uniform(0, _MOST_CREATING_S))
            if deed == "killed":
                await self._kill(service)
                if self._rng.random() < _SHARE_KILLED_AT_START:
                    service.begin_scheduler()
                    await asyncio.sleep(self._rng.uniform(0, _MOST_START_S))
                    await self._kill(service)
                    self._note("killed while it started")
                await service.start_scheduler()
            else:
                await self._stand_still(service)
            self._note(deed)

    def _allow_share(self) -> None:
        """Lets clients ask for half of the jobs that one life gets."""
        for _ in range(self._amounts.num_jobs // (2 * (self._amounts.num_kills + 1))):
            self._allowed.release()

    async def _kill(self, service: Service) -> None:
        service.signal_scheduler(signal.SIGKILL)
        await until(lambda: not service.is_running, 30)

    async def _stand_still(self, service: Service) -> None:
        """Stops a scheduler while items run there, until others have taken them, and lets it go on with them."""
        deadline_s = time.monotonic() + _ITEMS_RUN_WITHIN_S
        while (loads := await service.loads()) is None or not loads.best_effort.running:
            if time.monotonic() > deadline_s:
                self.result.problems.append("no item ran where a scheduler was to stand still")
                return
            self._allow_share()
            await asyncio.sleep(_MOST_CREATING_S)
        self._nobody_stands_still.clear()  # who takes its items has to live so long
        service.signal_scheduler(signal.SIGSTOP)
        await asyncio.sleep(_STANDS_STILL_S)
        service.signal_scheduler(signal.SIGCONT)
        self._nobody_stands_still.set()
        await service.wait_until_serving()

    async def _restart_database(self) -> None:
        """Kills the database as often as it should be, each time after so many kills of schedulers."""
        amounts = self._amounts
        for number in range(amounts.num_restarts):
            least = (number + 0.5) * amounts.num_kills / amounts.num_restarts
            await until(lambda least=least: self.result.happened["killed"] >= least, float("inf"))
            await self._nobody_stands_still.wait()
            await self._store.restart(self._rng.uniform(0, _MOST_AWAY_S))
            self._note("database killed")

    def _note(self, what: str) -> None:
        self.result.happened[what] += 1
        num_heard = sum(bool(record.batch_ids) for record in self._records)
        self._tell(f"{what}: {self.result.happened[what]}; {num_heard} jobs acknowledged")


def report(result: JobsResult) -> list[str]:
    """Returns the result in lines."""
    verdict, attempts = result.verdict, result.attempts
    deeds = ", ".join(f"{count} times {what}" for what, count in sorted(result.happened.items()))
    flaws = ", ".join(f"{count} {flaw}" for flaw, count in sorted(verdict.flaws.items())) or "none"
    return [
        f"{deeds}; {result.took_s:.0f} s",
        f"jobs: {verdict.num_acknowledged} acknowledged; {verdict.num_unheard} calls without a key were not answered, "
        f"of which {verdict.num_unheard_accepted} made a job",
        f"items: {verdict.num_items}, {attempts.num_again} begun more than once, one of them {attempts.most} times; "
        f"{result.num_fenced} writes fenced off",
        f"flaws: {flaws}",
        *verdict.examples,
        *result.problems,
    ]
