"""Jobs as their tenants see them. Each function runs in the transaction that it is called in."""

from sqlalchemy import Connection, Select, select, update

from scheduler_svc.jobs.job import ItemResult, ItemStatus, Job, JobStatus
from scheduler_svc.jobs.store.endings import PENDING, RUNNING, Ended, stop_items
from scheduler_svc.jobs.store.rows import job_of, result_of
from scheduler_svc.jobs.store.schema import item_answers, items, jobs


def get(connection: Connection, tenant: str, job_id: str) -> Job | None:
    """Returns a job; None if the tenant has none of that id."""
    row = connection.execute(_of_tenant(tenant, job_id)).first()
    return None if row is None else job_of(row)


def of_key(connection: Connection, tenant: str, key: str) -> Job | None:
    """Returns the job that a tenant made with a key; None if there is none."""
    row = connection.execute(select(jobs).where(jobs.c.tenant == tenant, jobs.c.idempotency_key == key)).first()
    return None if row is None else job_of(row)


def newest(connection: Connection, tenant: str, after: str | None, limit: int) -> tuple[list[Job], bool]:
    """Returns jobs, newest first, those older than `after`; and whether there are more."""
    query = select(jobs).where(jobs.c.tenant == tenant, jobs.c.is_whole).order_by(jobs.c.job_id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(jobs.c.job_id < after)
    rows = connection.execute(query).all()
    return [job_of(row) for row in rows[:limit]], len(rows) > limit


def cancel(connection: Connection, tenant: str, job_id: str, now_s: float) -> tuple[Job | None, Ended]:
    """Ends a job's items that wait, and has those that run stopped; a job that ends already goes on doing so.

    Returns the job, None if the tenant has none of that id, and what ended.
    """
    ended = Ended()
    row = connection.execute(_of_tenant(tenant, job_id).with_for_update()).first()
    if row is None:
        return None, ended
    if JobStatus(row.status) is JobStatus.IN_PROGRESS:
        cancelling = {"status": JobStatus.CANCELLING.value, "cancelling_at": now_s}
        connection.execute(update(jobs).where(jobs.c.job_id == job_id).values(**cancelling))
        ended = stop_items(connection, job_id, ItemStatus.CANCELLED, now_s)
    return get(connection, tenant, job_id), ended


def results(connection: Connection, tenant: str, job_id: str, after: int, limit: int) -> list[ItemResult]:
    """Returns the first items that have ended, of those behind a position."""
    joined = items.join(jobs, jobs.c.job_id == items.c.job_id).outerjoin(
        item_answers, (item_answers.c.job_id == items.c.job_id) & (item_answers.c.position == items.c.position)
    )
    query = (
        select(
            items.c.position,
            items.c.custom_id,
            items.c.status,
            items.c.error_code,
            items.c.error_message,
            item_answers.c.body,
        )
        .select_from(joined)
        .where(jobs.c.tenant == tenant, jobs.c.is_whole, items.c.job_id == job_id, items.c.position > after)
        .where(items.c.status.not_in((PENDING, RUNNING)))
        .order_by(items.c.position)
        .limit(limit)
    )
    return [result_of(row) for row in connection.execute(query)]


def _of_tenant(tenant: str, job_id: str) -> Select[tuple[object, ...]]:
    return select(jobs).where(jobs.c.job_id == job_id, jobs.c.tenant == tenant, jobs.c.is_whole)
