"""Reading results while a job runs."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from scheduler_svc.api.jobs.errors import NoSuchJob
from scheduler_svc.api.jobs.results import all_results, ended_results
from scheduler_svc.jobs.job import ItemKind, ItemOutcome, ItemResult, ItemStatus, NewItem, NewJob
from tests.support.jobs.memory_jobs import MemoryJobs
from tests.support.jobs.new_jobs import each

DONE = ItemOutcome(status=ItemStatus.SUCCEEDED, body=b"an answer")


@pytest.fixture
def jobs() -> MemoryJobs:
    return MemoryJobs()


async def job_of(jobs: MemoryJobs, num_items: int) -> str:
    items = [NewItem(f"item {position}", b"") for position in range(num_items)]
    return (await jobs.create_job(NewJob(tenant="", kind=ItemKind.GENERATE), each(items))).job_id


def followed(jobs: MemoryJobs, job_id: str, from_position: int = 0) -> AsyncIterator[ItemResult]:
    return all_results(jobs, "", job_id, from_position, poll_s=0.001)


async def test_without_following_there_is_what_has_ended(jobs: MemoryJobs) -> None:
    job_id = await job_of(jobs, 4)
    for position in (3, 1):
        jobs.finish(job_id, position, DONE)
    assert [result.position async for result in ended_results(jobs, "", job_id)] == [1, 3]
    assert [result.position async for result in ended_results(jobs, "", job_id, 2)] == [3]


async def test_following_waits_for_gaps_so_that_a_cut_stream_can_be_gone_on_with(jobs: MemoryJobs) -> None:
    job_id = await job_of(jobs, 4)
    for position in (1, 0, 3):
        jobs.finish(job_id, position, DONE)
    results = followed(jobs, job_id)
    assert [(await anext(results)).position for _ in range(2)] == [0, 1]
    third = asyncio.ensure_future(anext(results))
    await asyncio.sleep(0.02)
    assert not third.done()
    jobs.finish(job_id, 2, DONE)
    assert (await third).position == 2
    assert [result.position async for result in results] == [3]


async def test_following_ends_with_the_job_however_it_ends(jobs: MemoryJobs) -> None:
    job_id = await job_of(jobs, 3)
    jobs.finish(job_id, 1, DONE)
    await jobs.cancel_job("", job_id)
    statuses = [result.outcome.status async for result in followed(jobs, job_id)]
    assert statuses == [ItemStatus.CANCELLED, ItemStatus.SUCCEEDED, ItemStatus.CANCELLED]
    assert [result.position async for result in followed(jobs, job_id, 2)] == [2]


async def test_jobs_of_others_can_not_be_followed(jobs: MemoryJobs) -> None:
    job_id = await job_of(jobs, 1)
    with pytest.raises(NoSuchJob, match=job_id):
        await anext(all_results(jobs, "another", job_id))
