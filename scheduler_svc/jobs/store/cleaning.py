"""Deletes what is over, a little at a time. Each function runs in the transaction that it is called in.

    a job that ended long ago ──hide──▶ a job that nobody sees ──clean──▶ gone, with its items
    what never became whole   ─────────────────────────────────────┘

A job of 50,000 items is deleted in many transactions, lest everybody else's commits wait for one; nobody sees half of
it, since it is hidden first.
"""

from sqlalchemy import Connection, delete, not_, or_, select, tuple_, update

from scheduler_svc.jobs.store.schema import files, items, jobs

_ITEMS_AT_ONCE = 200
_JOBS_AT_ONCE = 100
_UNFINISHED_S = 86400.0  # after which nobody is taken to go on sending it


def hide_old_jobs(connection: Connection, ended_before_s: float) -> bool:
    """Hides jobs that ended before a time, and frees their keys; returns whether there may be more."""
    old = (
        select(jobs.c.job_id)
        .where(jobs.c.is_whole, jobs.c.ended_at < ended_before_s)
        .limit(_JOBS_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    old_ids = connection.scalars(old).all()
    if old_ids:
        hidden = update(jobs).where(jobs.c.job_id.in_(old_ids)).values(is_whole=False, idempotency_key=None)
        connection.execute(hidden)
    return len(old_ids) == _JOBS_AT_ONCE


def clean(connection: Connection, now_s: float, file_before_s: float) -> bool:
    """Deletes a part of one job that nobody sees, or one old file; returns whether there may be more.

    Args:
        connection: The transaction.
        now_s: The time.
        file_before_s: Files that came before it are deleted.
    """
    return _clean_job(connection, now_s) or _clean_file(connection, now_s, file_before_s)


def _clean_job(connection: Connection, now_s: float) -> bool:
    is_over = or_(jobs.c.ended_at.is_not(None), jobs.c.created_at < now_s - _UNFINISHED_S)
    hidden = select(jobs.c.job_id).where(not_(jobs.c.is_whole), is_over).limit(1)
    job_id = connection.scalar(hidden.with_for_update(skip_locked=True))
    if job_id is None:
        return False
    some = select(items.c.job_id, items.c.position).where(items.c.job_id == job_id)
    some = some.order_by(items.c.position).limit(_ITEMS_AT_ONCE)
    num_deleted = connection.execute(delete(items).where(tuple_(items.c.job_id, items.c.position).in_(some))).rowcount
    if num_deleted < _ITEMS_AT_ONCE:
        connection.execute(delete(jobs).where(jobs.c.job_id == job_id))
    return True


def _clean_file(connection: Connection, now_s: float, before_s: float) -> bool:
    is_left = not_(files.c.is_whole) & (files.c.created_at < now_s - _UNFINISHED_S)
    over = select(files.c.file_id).where(or_(is_left, files.c.created_at < before_s)).limit(1)
    file_id = connection.scalar(over.with_for_update(skip_locked=True))
    if file_id is None:
        return False
    connection.execute(delete(files).where(files.c.file_id == file_id))
    return True
