import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from scheduler_svc.caller import current_tenant
from scheduler_svc.errors import (
    BatchFailed,
    InvalidRequest,
    Overloaded,
    QuotaExceeded,
    ServiceError,
    WorkerKilled,
    WorkerUnavailable,
)
from scheduler_svc.jobs.item_worker import OnProgress
from scheduler_svc.jobs.job import Claim, ItemOutcome, ItemStatus, JobStatus, Progress
from scheduler_svc.jobs.pull import BestEffortLoad, Pull
from scheduler_svc.jobs.runner import LEASE_S, RENEW_S, JobRunner
from scheduler_svc.jobs.store.store import JobStore
from tests.support.jobs.clock import Clock
from tests.support.jobs.fake_item_worker import FakeItemWorker, StoreWithOutages
from tests.support.jobs.new_jobs import FAILED, SUCCEEDED, added, claimed, ended, statuses

PROGRESS = Progress((1, 2), (-0.1, -0.2))
BUSY = BestEffortLoad(is_ready=True, wait_s=99.0)
IDLE = BestEffortLoad(is_ready=True)


@pytest.fixture
async def sqlite_store(tmp_path: Path, clock: Clock) -> AsyncIterator[JobStore]:
    store = JobStore.in_directory(tmp_path, clock)
    yield store
    await store.close()


class Life:
    """One life of a scheduler, whose turns the test takes."""

    def __init__(self, store: JobStore, clock: Clock, owner: str = "a", max_items: int = 100) -> None:
        self.store = StoreWithOutages(store)
        self.worker = FakeItemWorker()
        self.load = IDLE
        self.recorded: Counter[ItemStatus] = Counter()
        self.runner = JobRunner(
            self.store,
            self.worker,
            lambda: self.load,
            Pull(10.0, max_items),
            owner,
            clock,
        )
        store.listen(on_ended=self.note_ended)

    def note_ended(self, status: ItemStatus, number: int) -> None:
        self.recorded[status] += number

    async def turns(self, number: int = 1) -> None:
        """Takes turns, after each of which the items that began have come to where they wait."""
        for _ in range(number):
            await self.runner.turn()
            await settled()

    async def end(self, position: int, outcome: ItemOutcome = SUCCEEDED) -> None:
        self.worker.attempts[position].end.set_result(outcome)
        await settled()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def life(sqlite_store: JobStore, clock: Clock) -> AsyncIterator[Life]:
    life = Life(sqlite_store, clock)
    yield life
    await life.runner.part()


async def test_items_are_run_and_their_outcomes_recorded(sqlite_store: JobStore, life: Life) -> None:
    job_id = await added(sqlite_store, 3)
    await life.turns(2)
    assert life.runner.num_running == 3
    await life.end(1, FAILED)
    await life.end(0)
    await life.turns()
    assert await statuses(sqlite_store, job_id) == {0: "succeeded", 1: "failed"}
    await life.end(2)
    await life.turns()
    job = await sqlite_store.job("", job_id)
    assert job is not None
    assert job.status is JobStatus.COMPLETED
    assert life.recorded == {ItemStatus.FAILED: 1, ItemStatus.SUCCEEDED: 2}


async def test_no_more_is_claimed_while_there_is_work_enough(sqlite_store: JobStore, life: Life) -> None:
    await added(sqlite_store, 10)
    await life.turns(2)
    assert life.runner.num_running == 3
    life.load = BUSY
    await life.turns(3)
    assert life.runner.num_running == 3


async def test_items_never_take_more_places_than_they_may(sqlite_store: JobStore, clock: Clock) -> None:
    await added(sqlite_store, 10)
    life = Life(sqlite_store, clock, max_items=5)
    await life.turns(10)
    assert life.runner.num_running == 5
    await life.runner.part()


async def test_no_more_is_claimed_while_an_item_is_about_to_be_queued(sqlite_store: JobStore, clock: Clock) -> None:
    async def run(_claim: Claim, _on_progress: OnProgress) -> ItemOutcome:
        return await asyncio.Event().wait() and SUCCEEDED

    await added(sqlite_store, 10)
    life = Life(sqlite_store, clock)
    life.worker.run = run  # type: ignore[method-assign]
    await life.turns(3)
    assert life.runner.num_running == 1
    clock.now_s += 0.25
    await life.turns(3)
    assert life.runner.num_running == 3
    await life.runner.part()


async def test_a_lease_is_renewed_with_the_progress_while_the_item_runs(
    sqlite_store: JobStore, life: Life, clock: Clock
) -> None:
    await added(sqlite_store)
    await life.turns()
    life.worker.attempts[0].on_progress(PROGRESS)
    for _ in range(6):
        clock.now_s += RENEW_S
        await life.turns()
    assert await claimed(sqlite_store, "b") == []
    clock.now_s += LEASE_S  # its scheduler was killed
    [claim] = await claimed(sqlite_store, "b")
    assert (claim.attempt, claim.progress) == (2, PROGRESS)


async def test_an_item_goes_on_from_what_an_earlier_life_had(sqlite_store: JobStore, life: Life, clock: Clock) -> None:
    await added(sqlite_store)
    await life.turns()
    life.worker.attempts[0].on_progress(PROGRESS)
    clock.now_s += RENEW_S
    await life.turns()
    clock.now_s += LEASE_S
    next_life = Life(sqlite_store, clock, "b")
    await next_life.turns()
    assert [(claim.attempt, claim.progress) for claim in next_life.worker.started] == [(2, PROGRESS)]
    await next_life.runner.part()


async def test_an_outcome_of_a_lost_item_is_refused_and_said(
    sqlite_store: JobStore, life: Life, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = await added(sqlite_store)
    await life.turns()
    clock.now_s += LEASE_S
    [claim] = await claimed(sqlite_store, "b")
    await life.end(0, FAILED)
    await life.turns()
    assert f"outcome_refused job_id={job_id} position=0" in caplog.text
    assert not life.recorded
    assert await sqlite_store.finish("b", [(claim, SUCCEEDED)]) == []


async def test_what_was_lost_or_cancelled_is_stopped(sqlite_store: JobStore, life: Life, clock: Clock) -> None:
    job_id = await added(sqlite_store, 2)
    await life.turns(2)
    await sqlite_store.cancel_job("", job_id)
    life.runner.renew_now()
    await life.turns()
    assert (life.runner.num_running, life.worker.num_cancelled) == (0, 2)
    assert await statuses(sqlite_store, job_id) == {0: "cancelled", 1: "cancelled"}


async def test_a_job_past_its_window_expires(sqlite_store: JobStore, life: Life, clock: Clock) -> None:
    job_id = await added(sqlite_store, 2, window_s=60)
    await life.turns()
    clock.now_s += 60
    await life.turns()
    job = await sqlite_store.job("", job_id)
    assert job is not None
    assert job.status is JobStatus.EXPIRED


async def test_a_clean_stop_gives_items_back_at_once_with_their_progress(sqlite_store: JobStore, clock: Clock) -> None:
    job_id = await added(sqlite_store, 3)
    life = Life(sqlite_store, clock)
    await life.turns(2)
    life.worker.attempts[1].on_progress(PROGRESS)
    await life.end(2)
    await life.runner.part()
    assert life.worker.num_cancelled == 2
    assert await statuses(sqlite_store, job_id) == {2: "succeeded"}
    claims = await claimed(sqlite_store, "b")
    assert [(claim.position, claim.attempt, claim.progress) for claim in claims] == [
        (0, 2, Progress()),
        (1, 2, PROGRESS),
    ]


async def test_an_item_that_is_invalid_fails_with_its_code(sqlite_store: JobStore, life: Life) -> None:
    job_id = await added(sqlite_store)
    life.worker.errors = [error := InvalidRequest("max_tokens", 0, "1 or more")]
    await life.turns(2)
    [result] = await ended(sqlite_store, job_id)
    assert result.outcome == ItemOutcome(
        status=ItemStatus.FAILED, error_code="INVALID_ARGUMENT", error_message=str(error)
    )


@pytest.mark.parametrize("error", [WorkerUnavailable("no worker"), Overloaded("be", 8, 2.0)], ids=["no worker", "full"])
async def test_an_item_for_which_there_is_no_place_waits_and_is_never_recorded_as_failed(
    sqlite_store: JobStore, life: Life, clock: Clock, error: ServiceError
) -> None:
    job_id = await added(sqlite_store)
    for _ in range(20):
        life.worker.errors = [error]
        await life.turns(2)
        assert not life.worker.errors
        clock.now_s += 3.1
    assert await statuses(sqlite_store, job_id) == {}
    await life.turns()
    await life.end(0)
    await life.turns()
    assert await statuses(sqlite_store, job_id) == {0: "succeeded"}
    assert life.worker.started[-1].num_failures == 0


async def test_nothing_is_claimed_for_a_while_after_an_item_found_no_place(
    sqlite_store: JobStore, life: Life, clock: Clock
) -> None:
    await added(sqlite_store, 5)
    life.worker.errors = [Overloaded("be", 8, 2.0)]
    await life.turns(5)
    assert len(life.worker.started) == 1
    clock.now_s += 2.0
    await life.turns()
    assert len(life.worker.started) > 1


async def test_items_of_a_tenant_over_its_quota_wait_and_those_of_others_run(
    sqlite_store: JobStore, life: Life, clock: Clock
) -> None:
    over = await added(sqlite_store, 5, tenant="over")
    others = await added(sqlite_store, 2, tenant="other")
    life.worker.errors = [QuotaExceeded("over", "10 tokens a minute", 20.0)]
    await life.turns(4)
    assert [claim.tenant for claim in life.worker.started] == ["over", "other", "other"]
    clock.now_s += 20
    await life.turns(4)
    assert [claim.tenant for claim in life.worker.started[3:]] == ["over"] * 5
    assert await ended(sqlite_store, over, "over") == await ended(sqlite_store, others, "other") == []


async def test_an_item_that_kills_every_worker_is_given_to_no_other(sqlite_store: JobStore, life: Life) -> None:
    job_id = await added(sqlite_store)
    life.worker.errors = [WorkerKilled(2)]
    await life.turns(3)
    [result] = await ended(sqlite_store, job_id)
    assert (result.outcome.status, result.outcome.error_code) == (ItemStatus.FAILED, "INTERNAL")
    assert "the worker died 2 times" in result.outcome.error_message
    assert len(life.worker.started) == 1


async def test_every_end_of_an_item_is_counted_whoever_brings_it_about(
    sqlite_store: JobStore, life: Life, clock: Clock
) -> None:
    cancelled = await added(sqlite_store, 4)
    expiring = await added(sqlite_store, 2, window_s=1000)
    await life.turns(2)  # three of the first job's run
    await sqlite_store.cancel_job("", cancelled)
    assert life.recorded == {ItemStatus.CANCELLED: 1}
    life.runner.renew_now()
    life.load = BUSY
    await life.turns()
    assert life.recorded == {ItemStatus.CANCELLED: 4}
    clock.now_s += 1000
    life.runner.renew_now()
    await life.turns()
    assert life.recorded == {ItemStatus.CANCELLED: 4, ItemStatus.EXPIRED: 2}
    assert len(await ended(sqlite_store, expiring)) == 2


INTERNAL = ItemOutcome(status=ItemStatus.FAILED, error_code="INTERNAL", error_message="internal error")


async def fail_once(life: Life, way: str) -> None:
    if way == "outcome":
        await life.turns()
        await life.end(0, INTERNAL)
    else:
        life.worker.errors = [BatchFailed("boom") if way == "status" else ZeroDivisionError()]
        await life.turns()


@pytest.mark.parametrize("way", ["outcome", "status", "exception"])
async def test_an_item_that_fails_for_the_services_reasons_is_tried_four_times(
    sqlite_store: JobStore, life: Life, clock: Clock, way: str
) -> None:
    job_id = await added(sqlite_store)
    for _ in range(4):
        assert await statuses(sqlite_store, job_id) == {}
        await fail_once(life, way)
        await life.turns()
        clock.now_s += 20
    assert [claim.num_failures for claim in life.worker.started] == [0, 1, 2, 3]
    [result] = await ended(sqlite_store, job_id)
    assert (result.outcome.status, result.outcome.error_code) == (ItemStatus.FAILED, "INTERNAL")


async def test_while_the_store_is_away_items_run_and_their_ends_wait(
    sqlite_store: JobStore, life: Life, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    job_id = await added(sqlite_store, 4)
    await life.turns(2)
    life.store.is_out = True
    await life.end(0)
    await life.end(1, FAILED)
    for _ in range(59):
        clock.now_s += 1
        await life.turns()
    assert life.runner.num_running == 1
    assert caplog.text.count("job_store_unavailable") == 1
    life.store.is_out = False
    await life.turns()
    assert await statuses(sqlite_store, job_id) == {0: "succeeded", 1: "failed"}
    assert life.worker.num_cancelled == 0  # its lease was over, and nobody took it
    await life.end(2)
    await life.turns()
    assert await statuses(sqlite_store, job_id) == {0: "succeeded", 1: "failed", 2: "succeeded"}


async def test_a_stop_without_a_store_says_what_it_leaves(
    sqlite_store: JobStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    await added(sqlite_store, 1)
    life = Life(sqlite_store, clock)
    await life.turns()
    life.store.is_out = True
    await life.runner.part()
    assert "items_left num=1" in caplog.text
    clock.now_s += LEASE_S
    assert len(await claimed(sqlite_store, "b")) == 1


async def test_an_item_runs_on_behalf_of_its_tenant(sqlite_store: JobStore, clock: Clock) -> None:
    tenants = []

    async def run(_claim: Claim, _on_progress: OnProgress) -> ItemOutcome:
        tenants.append(current_tenant())
        return SUCCEEDED

    await added(sqlite_store, tenant="t")
    life = Life(sqlite_store, clock)
    life.worker.run = run  # type: ignore[method-assign]
    await life.turns()
    assert tenants == ["t"]
    await life.runner.part()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_it_runs_by_itself_from_start_to_stop(sqlite_store: JobStore, clock: Clock) -> None:
    life = Life(sqlite_store, clock)
    sqlite_store.listen(life.runner.wake, life.runner.renew_now, life.note_ended)
    async with life.runner as runner:
        job_id = await added(sqlite_store, 2)
        await until(lambda: runner.num_running == 2)
        await life.end(0)
        await until(lambda: life.recorded == {ItemStatus.SUCCEEDED: 1})
    assert runner.task.done()
    assert await statuses(sqlite_store, job_id) == {0: "succeeded"}
    assert [claim.position for claim in await claimed(sqlite_store, "b")] == [1]
