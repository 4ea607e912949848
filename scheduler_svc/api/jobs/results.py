"""Reads the results of a job: as they stand, or all of them as they come. Knows no wire format."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import cast

from scheduler_svc.api.jobs.errors import NoSuchJob
from scheduler_svc.jobs.interface import JobFrontDoor
from scheduler_svc.jobs.job import ItemResult, Job

# How long a reader that waits for the next result lets the store alone.
POLL_S = 0.5


async def require_job(door: JobFrontDoor, tenant: str, job_id: str) -> Job:
    """Returns the job; raises NoSuchJob if the tenant has none of that id."""
    job = await door.job(tenant, job_id)
    if job is None:
        raise NoSuchJob(job_id)
    return job


async def ended_results(
    door: JobFrontDoor, tenant: str, job_id: str, from_position: int = 0
) -> AsyncGenerator[ItemResult, None]:
    """Yields the results that are there, by position, from one on."""
    results = door.results(tenant, job_id, from_position - 1)
    async with aclosing(_closable(results)) as closable:
        async for result in closable:
            yield result


async def all_results(
    door: JobFrontDoor, tenant: str, job_id: str, from_position: int = 0, poll_s: float | None = None
) -> AsyncGenerator[ItemResult, None]:
    """Yields all results from a position on, without gaps, and ends when the job has ended."""
    while True:
        # Asked first: all results of a job that has ended are there.
        is_over = (await require_job(door, tenant, job_id)).status.is_terminal
        async with aclosing(ended_results(door, tenant, job_id, from_position)) as results:
            async for result in results:
                if result.position != from_position and not is_over:
                    break
                from_position = result.position + 1
                yield result
        if is_over:
            return
        await asyncio.sleep(POLL_S if poll_s is None else poll_s)


def _closable(results: AsyncIterator[ItemResult]) -> AsyncGenerator[ItemResult, None]:
    """Stores yield from generators, which hold a connection until they are closed."""
    return cast("AsyncGenerator[ItemResult, None]", results)
