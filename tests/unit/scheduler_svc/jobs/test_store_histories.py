"""Whatever two owners do, in whatever order, each item has one outcome, and none of a stale attempt is recorded."""

import asyncio
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from scheduler_svc.jobs.job import Claim, ItemOutcome, ItemStatus, Progress, Return
from scheduler_svc.jobs.store.store import JobStore
from tests.support.jobs.clock import Clock
from tests.support.jobs.item_model import ItemModel, ModelItem, ModelJob
from tests.support.jobs.new_jobs import FAILED, LEASE_S, SUCCEEDED, new_items, new_job
from tests.support.jobs.postgresql import PostgreSQL
from tests.unit.scheduler_svc.jobs.conftest import open_store

OWNERS = st.sampled_from(["a", "b"])
PROGRESS = st.lists(st.integers(0, 9), max_size=3).map(lambda ids: Progress(tuple(ids), tuple(-float(i) for i in ids)))
SECONDS = st.sampled_from([1.0, 10.0, LEASE_S, 100.0])


class Histories(RuleBasedStateMachine):
    """Does the same to a store and to the model of it."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.model = ItemModel()
        self.claims: list[tuple[str, Claim]] = []  # all that there ever were: stale ones write, too
        self.loop = asyncio.Runner()
        self.store = self.open()

    def open(self) -> JobStore:
        return open_store(self.url, self.clock)

    def teardown(self) -> None:
        self.loop.run(self.store.close())
        self.loop.close()

    @initialize()
    def begin(self) -> None:
        def empty(connection: object) -> None:
            for table in ("item_answers", "item_bodies", "items", "jobs"):
                connection.exec_driver_sql(f"DELETE FROM {table}")  # type: ignore[attr-defined]

        self.loop.run(self.store._database.write(empty))

    @rule(num_items=st.integers(1, 4), window_s=st.sampled_from([50.0, 86400.0]))
    def create(self, num_items: int, window_s: float) -> None:
        job = self.loop.run(self.store.create_job(new_job(window_s=window_s), new_items(num_items)))
        now_s = self.clock.now_s
        self.model.jobs[job.job_id] = ModelJob(now_s + window_s, [ModelItem(now_s) for _ in range(num_items)])

    @rule(owner=OWNERS, limit=st.integers(1, 5))
    def claim(self, owner: str, limit: int) -> None:
        claims = self.loop.run(self.store.claim(owner, limit, LEASE_S))
        wanted = self.model.claim(owner, limit, LEASE_S, self.clock.now_s)
        assert [(claim.job_id, claim.position, claim.attempt) for claim in claims] == wanted
        for claim in claims:
            item = self.model.jobs[claim.job_id].items[claim.position]
            assert (claim.progress, claim.num_failures) == (item.progress, item.num_failures)
            assert claim.body == b"body %d" % claim.position
        self.claims += [(owner, claim) for claim in claims]

    @precondition(lambda self: self.claims)
    @rule(draw=st.data(), progress=PROGRESS)
    def renew(self, draw: st.DataObject, progress: Progress) -> None:
        owner, claim = draw.draw(st.sampled_from(self.claims))
        over = self.loop.run(self.store.renew(owner, [(claim, progress)], LEASE_S))
        assert (not over) is self.model.renew(owner, claim, progress, self.clock.now_s + LEASE_S)

    @precondition(lambda self: self.claims)
    @rule(draw=st.data(), outcome=st.sampled_from([SUCCEEDED, FAILED]))
    def finish(self, draw: st.DataObject, outcome: ItemOutcome) -> None:
        owner, claim = draw.draw(st.sampled_from(self.claims))
        refused = self.loop.run(self.store.finish(owner, [(claim, outcome)]))
        assert (not refused) is self.model.finish(owner, claim, outcome)

    @precondition(lambda self: self.claims)
    @rule(draw=st.data(), progress=PROGRESS, delay_s=st.sampled_from([0.0, 20.0]), has_failed=st.booleans())
    def give_back(self, draw: st.DataObject, progress: Progress, delay_s: float, *, has_failed: bool) -> None:
        owner, claim = draw.draw(st.sampled_from(self.claims))
        back = Return(claim, progress, delay_s, has_failed)
        lost = self.loop.run(self.store.give_back(owner, [back]))
        assert (not lost) is self.model.give_back(owner, back, self.clock.now_s)

    @precondition(lambda self: self.model.jobs)
    @rule(draw=st.data())
    def cancel(self, draw: st.DataObject) -> None:
        job_id = draw.draw(st.sampled_from(sorted(self.model.jobs)))
        self.loop.run(self.store.cancel_job("", job_id))
        self.model.cancel(job_id)

    @rule()
    def expire(self) -> None:
        self.loop.run(self.store.expire())
        self.model.expire(self.clock.now_s)

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds

    @invariant()
    def agrees(self) -> None:
        self.loop.run(self._agrees())

    async def _agrees(self) -> None:
        for job_id, model in self.model.jobs.items():
            job = await self.store.job("", job_id)
            assert job is not None
            by_status = [item.status for item in model.items]
            num_failed = by_status.count(ItemStatus.FAILED) + by_status.count(ItemStatus.EXPIRED)
            assert job.status is model.status
            assert (job.counts.succeeded, job.counts.failed) == (by_status.count(ItemStatus.SUCCEEDED), num_failed)
            results = {result.position: result.outcome async for result in self.store.results("", job_id)}
            assert results == {i: item.outcome for i, item in enumerate(model.items) if item.outcome is not None}


def run_histories(url: str, max_examples: int) -> None:
    machine = type("Histories", (Histories,), {"url": url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_every_item_has_one_outcome_in_sqlite() -> None:
    directory = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        run_histories(str(directory), max_examples=12)
    finally:
        shutil.rmtree(directory)


def test_every_item_has_one_outcome_in_postgresql(postgresql: PostgreSQL) -> None:
    run_histories(postgresql.create_database("histories"), max_examples=5)
