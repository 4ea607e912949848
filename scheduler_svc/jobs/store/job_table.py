"""Jobs as their tenants see them. Each function runs in the transaction that it is called in."""

import json
from collections.abc import Sequence

from sqlalchemy import Connection, Select, insert, select, update
from sqlalchemy.exc import IntegrityError

from scheduler_svc.jobs.job import ItemResult, ItemStatus, Job, JobStatus, LineError, NewItem, NewJob
from scheduler_svc.jobs.store.endings import PENDING, RUNNING, stop_items
from scheduler_svc.jobs.store.rows import job_of, result_of
from scheduler_svc.jobs.store.schema import item_answers, item_bodies, items, jobs


def create(connection: Connection, job_id: str, job: NewJob, new_items: Sequence[NewItem], now_s: float) -> Job:
    """Adds a job with its items, unless the tenant has one of that key; returns it or that one."""
    earlier = _add(connection, job_id, job, now_s, status=JobStatus.IN_PROGRESS, num_items=len(new_items))
    if earlier is not None:
        return earlier
    rows = [
        {
            "job_id": job_id,
            "position": position,
            "custom_id": item.custom_id,
            "status": PENDING,
            "due_at": now_s,
            "attempt": 0,
            "num_failures": 0,
            "error_code": "",
            "error_message": "",
        }
        for position, item in enumerate(new_items)
    ]
    bodies = [{"job_id": job_id, "position": position, "body": item.body} for position, item in enumerate(new_items)]
    connection.execute(insert(items), rows)
    connection.execute(insert(item_bodies), bodies)
    return job_of(connection.execute(_of_tenant(job.tenant, job_id)).one())


def fail(connection: Connection, job_id: str, job: NewJob, errors: Sequence[LineError], now_s: float) -> Job:
    """Adds a job that has failed, unless the tenant has one of that key; returns it or that one."""
    earlier = _add(connection, job_id, job, now_s, status=JobStatus.FAILED, errors=errors)
    return earlier or job_of(connection.execute(_of_tenant(job.tenant, job_id)).one())


def get(connection: Connection, tenant: str, job_id: str) -> Job | None:
    """Returns a job; None if the tenant has none of that id."""
    row = connection.execute(_of_tenant(tenant, job_id)).first()
    return None if row is None else job_of(row)


def newest(connection: Connection, tenant: str, after: str | None, limit: int) -> tuple[list[Job], bool]:
    """Returns jobs, newest first, those older than `after`; and whether there are more."""
    query = select(jobs).where(jobs.c.tenant == tenant).order_by(jobs.c.job_id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(jobs.c.job_id < after)
    rows = connection.execute(query).all()
    return [job_of(row) for row in rows[:limit]], len(rows) > limit


def cancel(connection: Connection, tenant: str, job_id: str, now_s: float) -> Job | None:
    """Ends a job's items that wait, and has those that run stopped; a job that ends already goes on doing so."""
    row = connection.execute(_of_tenant(tenant, job_id).with_for_update()).first()
    if row is None:
        return None
    if JobStatus(row.status) is JobStatus.IN_PROGRESS:
        cancelling = {"status": JobStatus.CANCELLING.value, "cancelling_at": now_s}
        connection.execute(update(jobs).where(jobs.c.job_id == job_id).values(**cancelling))
        stop_items(connection, job_id, ItemStatus.CANCELLED, now_s)
    return get(connection, tenant, job_id)


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
        .where(jobs.c.tenant == tenant, items.c.job_id == job_id, items.c.position > after)
        .where(items.c.status.not_in((PENDING, RUNNING)))
        .order_by(items.c.position)
        .limit(limit)
    )
    return [result_of(row) for row in connection.execute(query)]


def _of_tenant(tenant: str, job_id: str) -> Select[tuple[object, ...]]:
    return select(jobs).where(jobs.c.job_id == job_id, jobs.c.tenant == tenant)


def _add(
    connection: Connection,
    job_id: str,
    job: NewJob,
    now_s: float,
    *,
    status: JobStatus,
    num_items: int = 0,
    errors: Sequence[LineError] = (),
) -> Job | None:
    """Adds a row of `jobs`, unless the tenant has a job of that key, which is returned."""
    is_over = status.is_terminal
    row = {
        "job_id": job_id,
        "tenant": job.tenant,
        "kind": job.kind.value,
        "status": status.value,
        "idempotency_key": job.idempotency_key or None,
        "metadata": json.dumps(job.metadata),
        "input_file_id": job.input_file_id,
        "errors": json.dumps([(error.line, error.code, error.message) for error in errors]),
        "num_items": num_items,
        "num_open": num_items,
        "num_succeeded": 0,
        "num_failed": 0,
        "created_at": now_s,
        "expires_at": now_s + job.completion_window_s,
        "in_progress_at": None if is_over else now_s,
        "ended_at": now_s if is_over else None,
    }
    try:
        with connection.begin_nested():  # another scheduler may be adding one of the same key
            connection.execute(insert(jobs), row)
    except IntegrityError:
        same_key = (jobs.c.tenant == job.tenant, jobs.c.idempotency_key == job.idempotency_key)
        return job_of(connection.execute(select(jobs).where(*same_key)).one())
    return None
