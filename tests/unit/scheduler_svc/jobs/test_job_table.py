import asyncio

import pytest

from scheduler_svc.errors import InvalidRequest
from scheduler_svc.jobs.job import ItemCounts, ItemKind, JobStatus, LineError, NewJob
from scheduler_svc.jobs.store.store import JobStore
from tests.support.jobs.clock import Clock
from tests.support.jobs.new_jobs import SUCCEEDED, added, claimed, ended, new_items, new_job


async def test_a_job_is_read_as_it_was_accepted(store: JobStore, clock: Clock) -> None:
    job = NewJob(
        tenant="t",
        kind=ItemKind.CHAT_COMPLETION,
        idempotency_key="k",
        completion_window_s=60,
        metadata={"näme": "wörd"},
        input_file_id="file_1",
    )
    created = await store.create_job(job, new_items(2))
    assert created == await store.job("t", created.job_id)
    assert created.status is JobStatus.IN_PROGRESS
    assert created.counts == ItemCounts(total=2, succeeded=0, failed=0)
    assert (created.kind, created.metadata, created.input_file_id) == (job.kind, job.metadata, "file_1")
    assert (created.created_at_s, created.expires_at_s) == (clock.now_s, clock.now_s + 60)


async def test_a_key_gives_the_first_job_again_to_its_tenant_only(store: JobStore, other_store: JobStore) -> None:
    first, again, others, keyless = await asyncio.gather(
        store.create_job(new_job("t", "k"), new_items(1)),
        other_store.create_job(new_job("t", "k"), new_items(3)),
        store.create_job(new_job("u", "k"), new_items(1)),
        store.create_job(new_job("t"), new_items(1)),
    )
    assert first == again
    assert len({first.job_id, others.job_id, keyless.job_id}) == 3
    jobs, _ = await store.jobs("t", None, 10)
    assert {job.job_id for job in jobs} == {first.job_id, keyless.job_id}


async def test_a_tenant_finds_nothing_of_anothers_job(store: JobStore) -> None:
    job_id = await added(store, tenant="t")
    [claim] = await claimed(store)
    await store.finish("a", [(claim, SUCCEEDED)])
    assert await store.job("u", job_id) is None
    assert await store.cancel_job("u", job_id) is None
    assert await store.jobs("u", None, 10) == ([], False)
    assert await ended(store, job_id, "u") == []
    assert len(await ended(store, job_id, "t")) == 1


async def test_jobs_are_listed_newest_first_in_pages(store: JobStore, clock: Clock) -> None:
    ids = []
    for _ in range(5):
        ids.append(await added(store))
        clock.now_s += 0.5
    newest, has_more = await store.jobs("", None, 2)
    assert ([job.job_id for job in newest], has_more) == ([ids[4], ids[3]], True)
    rest, has_more = await store.jobs("", ids[3], 3)
    assert ([job.job_id for job in rest], has_more) == ([ids[2], ids[1], ids[0]], False)


async def test_a_job_that_can_not_be_run_is_kept_with_its_errors(store: JobStore) -> None:
    errors = [LineError(3, "invalid_json", "line 3 is no JSON")]
    job = await store.fail_job(new_job(), errors)
    assert job.status is JobStatus.FAILED
    assert job.errors == tuple(errors)
    assert job == await store.job("", job.job_id)
    assert await claimed(store) == []


async def test_results_come_in_pages_and_from_a_position_on(store: JobStore) -> None:
    job_id = await added(store, 150)
    await store.finish("a", [(claim, SUCCEEDED) for claim in await claimed(store, limit=140)])
    assert [result.position for result in await ended(store, job_id)] == [*range(140)]
    assert [result.position async for result in store.results("", job_id, 130)] == [*range(131, 140)]


async def test_a_cancelled_job_ends_at_once_where_nothing_of_it_runs(store: JobStore) -> None:
    job_id = await added(store, 3)
    cancelled = await store.cancel_job("", job_id)
    assert cancelled is not None
    assert cancelled.status is JobStatus.CANCELLED
    assert await claimed(store) == []
    assert {result.outcome.status.value for result in await ended(store, job_id)} == {"cancelled"}


async def test_a_job_that_has_ended_stays_as_it_is(store: JobStore) -> None:
    job_id = await added(store)
    await store.finish("a", [(claim, SUCCEEDED) for claim in await claimed(store)])
    job = await store.job("", job_id)
    assert job is not None
    assert job.status is JobStatus.COMPLETED
    assert await store.cancel_job("", job_id) == job


async def test_a_job_without_items_is_refused(store: JobStore) -> None:
    with pytest.raises(InvalidRequest, match="items: got 0 items"):
        await store.create_job(new_job(), new_items(0))


async def test_a_job_of_many_items_is_claimed_from_its_first_on(store: JobStore) -> None:
    job_id = await added(store, 3000)
    claims = await claimed(store, limit=2)
    assert [(claim.job_id, claim.position, claim.body) for claim in claims] == [
        (job_id, 0, b"body 0"),
        (job_id, 1, b"body 1"),
    ]
