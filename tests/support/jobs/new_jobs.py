"""Jobs to put into a store, and a short way to read what became of them."""

from collections.abc import AsyncGenerator, Iterable, Sequence

from sqlalchemy import func, select

from scheduler_svc.jobs.job import Claim, ItemKind, ItemOutcome, ItemResult, ItemStatus, NewItem, NewJob
from scheduler_svc.jobs.store.schema import metadata
from scheduler_svc.jobs.store.store import JobStore

SUCCEEDED = ItemOutcome(status=ItemStatus.SUCCEEDED, body=b"answer")
FAILED = ItemOutcome(status=ItemStatus.FAILED, error_code="INVALID_ARGUMENT", error_message="it is wrong")
LEASE_S = 30.0


def new_job(tenant: str = "", key: str = "", window_s: float = 86400.0) -> NewJob:
    return NewJob(tenant=tenant, kind=ItemKind.GENERATE, idempotency_key=key, completion_window_s=window_s)


async def each(items: Iterable[NewItem]) -> AsyncGenerator[NewItem, None]:
    """Yields items as they come to a store."""
    for item in items:
        yield item


def new_items(number: int) -> AsyncGenerator[NewItem, None]:
    return each(NewItem(f"item-{position}", b"body %d" % position) for position in range(number))


async def added(store: JobStore, num_items: int = 1, **job: object) -> str:
    """Adds a job; returns its id."""
    return (await store.create_job(new_job(**job), new_items(num_items))).job_id  # type: ignore[arg-type]


async def claimed(store: JobStore, owner: str = "a", limit: int = 100) -> list[Claim]:
    return await store.claim(owner, limit, LEASE_S)


async def ended(store: JobStore, job_id: str, tenant: str = "") -> list[ItemResult]:
    return [result async for result in store.results(tenant, job_id)]


async def statuses(store: JobStore, job_id: str) -> dict[int, str]:
    return {result.position: result.outcome.status.value for result in await ended(store, job_id)}


def keys(claims: Sequence[Claim]) -> list[tuple[str, int, int]]:
    return [(claim.job_id, claim.position, claim.attempt) for claim in claims]


async def number_of_rows(store: JobStore, table: str) -> int:
    """Counts the rows of a table, whether anybody may see them or not."""
    count = select(func.count()).select_from(metadata.tables[table])
    return int(await store._database.read(lambda connection: connection.scalar(count)) or 0)
