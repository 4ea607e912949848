"""Takes jobs in. Each function runs in the transaction that it is called in.

    begin ─▶ add items ─▶ add items ─▶ ... ─▶ accept       a large job, in several transactions
    begin, add items, accept                               a small one, in one

A job that is coming in is not whole: nobody sees it and nothing of it is claimed, until it is accepted.
"""

import json
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, insert, not_, select, update
from sqlalchemy.exc import IntegrityError

from scheduler_svc.jobs.job import Job, JobStatus, LineError, NewItem, NewJob
from scheduler_svc.jobs.store.endings import PENDING
from scheduler_svc.jobs.store.rows import job_of
from scheduler_svc.jobs.store.schema import item_bodies, items, jobs


def create(connection: Connection, job_id: str, job: NewJob, new_items: Sequence[NewItem], now_s: float) -> Job:
    """Adds a job with all of its items, unless the tenant has one of that key; returns it or that one."""
    begin(connection, job_id, job, now_s)
    add_items(connection, job_id, 0, new_items)
    return accept(connection, job_id, job, len(new_items), now_s)


def begin(connection: Connection, job_id: str, job: NewJob, now_s: float) -> None:
    """Adds a job without items, which nobody sees yet."""
    row = {
        "job_id": job_id,
        "tenant": job.tenant,
        "kind": job.kind.value,
        "status": JobStatus.IN_PROGRESS.value,
        "metadata": json.dumps(job.metadata),
        "input_file_id": job.input_file_id,
        "errors": "[]",
        "num_items": 0,
        "num_open": 0,
        "num_succeeded": 0,
        "num_failed": 0,
        "created_at": now_s,
        "expires_at": now_s + job.completion_window_s,
        "is_whole": False,
    }
    connection.execute(insert(jobs), row)


def add_items(connection: Connection, job_id: str, position: int, new_items: Sequence[NewItem]) -> None:
    """Adds the items from a position on, which nobody may claim yet."""
    placed = [*enumerate(new_items, position)]
    rows = [
        {
            "job_id": job_id,
            "position": at,
            "custom_id": item.custom_id,
            "status": PENDING,
            "attempt": 0,
            "num_failures": 0,
            "error_code": "",
            "error_message": "",
        }
        for at, item in placed
    ]
    connection.execute(insert(items), rows)
    connection.execute(
        insert(item_bodies), [{"job_id": job_id, "position": at, "body": item.body} for at, item in placed]
    )


def accept(connection: Connection, job_id: str, job: NewJob, num_items: int, now_s: float) -> Job:
    """Shows a job to its tenant and its items to whoever claims, unless the tenant has one of its key.

    Returns it, or that one; what came is then left to `clean`.
    """
    accepted = {
        "num_items": num_items,
        "num_open": num_items,
        "created_at": now_s,
        "expires_at": now_s + job.completion_window_s,
        "in_progress_at": now_s,
    }
    if not _show(connection, job_id, job, accepted):
        give_up(connection, job_id, now_s)
        return _of_key(connection, job)
    connection.execute(update(items).where(items.c.job_id == job_id).values(due_at=now_s))
    return _shown(connection, job_id)


def fail(connection: Connection, job_id: str, job: NewJob, errors: Sequence[LineError], now_s: float) -> Job:
    """Adds a job that has failed, unless the tenant has one of that key; returns it or that one."""
    begin(connection, job_id, job, now_s)
    words = json.dumps([(error.line, error.code, error.message) for error in errors])
    failed = {"status": JobStatus.FAILED.value, "errors": words, "ended_at": now_s}
    if not _show(connection, job_id, job, failed):
        give_up(connection, job_id, now_s)
        return _of_key(connection, job)
    return _shown(connection, job_id)


def give_up(connection: Connection, job_id: str, now_s: float) -> None:
    """Leaves what came of a job to `clean`; one that was accepted stays as it is."""
    is_coming_in = (jobs.c.job_id == job_id) & not_(jobs.c.is_whole)
    connection.execute(update(jobs).where(is_coming_in).values(ended_at=now_s))


def _show(connection: Connection, job_id: str, job: NewJob, columns: Mapping[str, object]) -> bool:
    """Makes a job whole; returns False if the tenant has another one of its key."""
    shown = {**columns, "is_whole": True, "idempotency_key": job.idempotency_key or None}
    try:
        with connection.begin_nested():  # another scheduler may be adding one of the same key
            connection.execute(update(jobs).where(jobs.c.job_id == job_id).values(**shown))
    except IntegrityError:
        return False
    return True


def _shown(connection: Connection, job_id: str) -> Job:
    return job_of(connection.execute(select(jobs).where(jobs.c.job_id == job_id)).one())


def _of_key(connection: Connection, job: NewJob) -> Job:
    same_key = (jobs.c.tenant == job.tenant, jobs.c.idempotency_key == job.idempotency_key)
    return job_of(connection.execute(select(jobs).where(*same_key)).one())
