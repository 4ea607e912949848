import asyncio

import pytest

from scheduler_svc.jobs.job import ItemCounts, ItemOutcome, ItemStatus, JobStatus, Progress, Return
from scheduler_svc.jobs.store import claims as claims_of_store
from scheduler_svc.jobs.store.store import JobStore
from tests.support.jobs.clock import Clock
from tests.support.jobs.new_jobs import FAILED, LEASE_S, SUCCEEDED, added, claimed, ended, keys, statuses

PROGRESS = Progress((5, 2**31 - 1, 0), (-0.5, -1e-9, 0.0))


async def status_of(store: JobStore, job_id: str) -> JobStatus:
    job = await store.job("", job_id)
    assert job is not None
    return job.status


async def test_an_item_is_claimed_by_one_owner_at_a_time(store: JobStore, other_store: JobStore) -> None:
    job_id = await added(store, 40)
    claims = await asyncio.gather(*[each.claim(name, 15, 30) for each, name in ((store, "a"), (other_store, "b")) * 2])
    assert sorted(key for each in claims for key in keys(each)) == [(job_id, i, 1) for i in range(40)]


async def test_the_oldest_job_comes_first(store: JobStore, clock: Clock) -> None:
    older = await added(store, 2)
    clock.now_s += 1
    newer = await added(store, 2)
    assert keys(await claimed(store, limit=3)) == [(older, 0, 1), (older, 1, 1), (newer, 0, 1)]


async def test_a_lease_that_is_over_lets_another_go_on_from_the_progress(store: JobStore, clock: Clock) -> None:
    job_id = await added(store)
    [claim] = await claimed(store)
    assert await store.renew("a", [(claim, PROGRESS)], LEASE_S) == []
    clock.now_s += LEASE_S - 1
    assert await claimed(store, "b") == []
    clock.now_s += 1
    [again] = await claimed(store, "b")
    assert keys([again]) == [(job_id, 0, 2)]
    assert again.progress == PROGRESS
    assert again.body == claim.body


async def test_an_owner_that_lost_its_item_can_write_nothing_of_it(store: JobStore, clock: Clock) -> None:
    job_id = await added(store)
    [lost] = await claimed(store)
    clock.now_s += LEASE_S
    [held] = await claimed(store, "b")
    assert await store.renew("a", [(lost, PROGRESS)], LEASE_S) == [lost]
    assert await store.give_back("a", [Return(lost)]) == [lost]
    assert await store.finish("a", [(lost, FAILED)]) == [lost]
    assert await store.finish("b", [(held, SUCCEEDED)]) == []
    assert await store.finish("a", [(lost, FAILED)]) == [lost]
    [result] = await ended(store, job_id)
    assert result.outcome == SUCCEEDED


async def test_an_earlier_attempt_of_the_same_owner_can_write_nothing(store: JobStore, clock: Clock) -> None:
    job_id = await added(store)
    [first] = await claimed(store)
    clock.now_s += LEASE_S
    [second] = await claimed(store)
    assert await store.finish("a", [(first, FAILED)]) == [first]
    assert await store.finish("a", [(second, SUCCEEDED)]) == []
    assert await statuses(store, job_id) == {0: "succeeded"}


async def test_an_outcome_may_be_said_again_by_who_did_not_hear_of_the_commit(store: JobStore) -> None:
    job_id = await added(store)
    [claim] = await claimed(store)
    for _ in range(2):
        assert await store.finish("a", [(claim, SUCCEEDED)]) == []
    job = await store.job("", job_id)
    assert job is not None
    assert job.counts == ItemCounts(total=1, succeeded=1, failed=0)


async def test_a_lease_that_is_over_and_was_not_taken_still_gives_a_result(store: JobStore, clock: Clock) -> None:
    job_id = await added(store)
    [claim] = await claimed(store)
    clock.now_s += 10 * LEASE_S
    assert await store.finish("a", [(claim, SUCCEEDED)]) == []
    assert await status_of(store, job_id) is JobStatus.COMPLETED


async def test_the_last_item_completes_the_job(store: JobStore, clock: Clock) -> None:
    job_id = await added(store, 2)
    first, last = await claimed(store)
    await store.finish("a", [(first, FAILED)])
    assert await status_of(store, job_id) is JobStatus.IN_PROGRESS
    clock.now_s += 5
    await store.finish("a", [(last, SUCCEEDED)])
    job = await store.job("", job_id)
    assert job is not None
    assert (job.status, job.ended_at_s) == (JobStatus.COMPLETED, clock.now_s)
    assert job.counts == ItemCounts(total=2, succeeded=1, failed=1)
    assert [result.outcome for result in await ended(store, job_id)] == [FAILED, SUCCEEDED]


async def test_two_schedulers_that_end_the_last_items_together_end_the_job(
    store: JobStore, other_store: JobStore
) -> None:
    ids = [await added(store, 2) for _ in range(10)]
    ends = [(claim, SUCCEEDED) for claim in await claimed(store)]
    evens, odds = ends[::2], ends[1::2]
    await asyncio.gather(
        *[store.finish("a", [end]) for end in evens], *[other_store.finish("a", [end]) for end in reversed(odds)]
    )
    assert {await status_of(store, job_id) for job_id in ids} == {JobStatus.COMPLETED}


async def test_what_is_given_back_is_claimed_at_once_or_later_with_its_progress(store: JobStore, clock: Clock) -> None:
    await added(store, 2)
    first, second = await claimed(store)
    returns = [Return(first, PROGRESS), Return(second, Progress(), delay_s=5.0, has_failed=True)]
    assert await store.give_back("a", returns) == []
    [again] = await claimed(store, "b")
    assert (again.position, again.attempt, again.progress, again.num_failures) == (0, 2, PROGRESS, 0)
    clock.now_s += 5
    [failed] = await claimed(store, "b")
    assert (failed.position, failed.progress, failed.num_failures) == (1, Progress(), 1)


async def test_what_runs_of_a_cancelled_job_ends_when_its_owner_renews(store: JobStore) -> None:
    job_id = await added(store, 3)
    claims = await claimed(store, limit=2)
    job = await store.cancel_job("", job_id)
    assert job is not None
    assert job.status is JobStatus.CANCELLING
    assert await statuses(store, job_id) == {2: "cancelled"}
    assert await store.renew("a", [(claim, PROGRESS) for claim in claims], LEASE_S) == claims
    assert await status_of(store, job_id) is JobStatus.CANCELLED
    assert await store.finish("a", [(claims[0], SUCCEEDED)]) == [claims[0]]
    assert await statuses(store, job_id) == dict.fromkeys(range(3), "cancelled")


async def test_what_ended_before_a_cancelled_jobs_owner_heard_of_it_counts(store: JobStore) -> None:
    job_id = await added(store, 2)
    claims = await claimed(store)
    await store.cancel_job("", job_id)
    assert await store.finish("a", [(claims[0], SUCCEEDED)]) == []
    assert await store.give_back("a", [Return(claims[1], PROGRESS)]) == []
    assert await statuses(store, job_id) == {0: "succeeded", 1: "cancelled"}
    assert await status_of(store, job_id) is JobStatus.CANCELLED


async def test_what_runs_of_a_cancelled_job_ends_with_the_lease_of_an_owner_that_is_gone(
    store: JobStore, clock: Clock
) -> None:
    job_id = await added(store)
    await claimed(store)
    await store.cancel_job("", job_id)
    clock.now_s += LEASE_S
    assert await claimed(store, "b") == []
    await store.expire()
    assert await status_of(store, job_id) is JobStatus.CANCELLED


async def test_a_job_whose_window_is_over_keeps_the_results_that_it_has(store: JobStore, clock: Clock) -> None:
    job_id = await added(store, 3, window_s=20)
    first, second = await claimed(store, limit=2)
    await store.finish("a", [(first, SUCCEEDED)])
    clock.now_s += 20
    await store.expire()
    assert await status_of(store, job_id) is JobStatus.FINALIZING
    assert await store.renew("a", [(second, PROGRESS)], LEASE_S) == [second]
    job = await store.job("", job_id)
    assert job is not None
    assert (job.status, job.counts) == (JobStatus.EXPIRED, ItemCounts(total=3, succeeded=1, failed=2))
    assert await statuses(store, job_id) == {0: "succeeded", 1: "expired", 2: "expired"}


async def test_a_job_all_of_which_ended_well_after_its_window_is_complete(store: JobStore, clock: Clock) -> None:
    job_id = await added(store, window_s=20)
    [claim] = await claimed(store)
    clock.now_s += 20
    await store.expire()
    assert await store.finish("a", [(claim, SUCCEEDED)]) == []
    assert await status_of(store, job_id) is JobStatus.COMPLETED


async def test_more_jobs_expire_than_one_transaction_takes(
    store: JobStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims_of_store, "_MOST_EXPIRED", 2)
    ids = await asyncio.gather(*[added(store, window_s=10) for _ in range(5)])
    clock.now_s += 10
    await store.expire()
    assert {await status_of(store, job_id) for job_id in ids} == {JobStatus.EXPIRED}


async def test_an_error_message_that_a_database_can_not_hold_is_recorded_without_what_it_can_not(
    store: JobStore,
) -> None:
    job_id = await added(store)
    [claim] = await claimed(store)
    outcome = ItemOutcome(status=ItemStatus.FAILED, error_code="INTERNAL", error_message="a\0b\ud800" + "x" * 5000)
    assert await store.finish("a", [(claim, outcome)]) == []
    [result] = await ended(store, job_id)
    assert result.outcome.error_message.startswith("ab?x")
    assert len(result.outcome.error_message) < 2000


async def test_leases_of_who_is_known_to_be_gone_end_at_once(store: JobStore) -> None:
    job_id = await added(store, 3)
    [gone] = await claimed(store, limit=1)
    assert await store.end_leases() == 1
    assert keys(await claimed(store, "b", limit=1)) == [(job_id, 0, 2)]
    assert await store.finish("a", [(gone, FAILED)]) == [gone]
