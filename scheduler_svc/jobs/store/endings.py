"""Ends items, and with the last one its job, in the transaction that it is called in.

Whoever ends an item locks its job's row first, in the order of job ids, so that the number of open items is exact
whichever schedulers end them. SQLite's transactions exclude each other anyway.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, TypeAlias

from sqlalchemy import Connection, bindparam, case, delete, exists, func, select, update

from scheduler_svc.jobs.job import ItemStatus, JobStatus
from scheduler_svc.jobs.store.schema import item_bodies, items, jobs

Ended: TypeAlias = Counter[ItemStatus]
"""How many items ended how."""

PENDING, RUNNING = ItemStatus.PENDING.value, ItemStatus.RUNNING.value
_COUNTED_AS_FAILED = (ItemStatus.FAILED, ItemStatus.EXPIRED)


def lock_jobs(connection: Connection, job_ids: Iterable[str]) -> None:
    """Keeps others from ending items of these jobs until the transaction ends."""
    wanted = sorted(set(job_ids))
    if wanted:
        query = select(jobs.c.job_id).where(jobs.c.job_id.in_(wanted)).order_by(jobs.c.job_id)
        connection.execute(query.with_for_update()).all()


def ended_columns(status: ItemStatus, now_s: float, code: str = "", message: str = "") -> dict[str, Any]:
    """Returns what a row of `items` is given when its item ends."""
    return {
        "status": status.value,
        "due_at": None,
        "progress_tokens": None,
        "progress_logprobs": None,
        "progress_model": None,
        "error_code": code,
        "error_message": message,
        "ended_at": now_s,
    }


def settle(connection: Connection, ended: Iterable[tuple[str, int, ItemStatus]], now_s: float) -> Ended:
    """Counts items that ended just now: each by its job, its position and how it ended. Their jobs are locked.

    What they asked is deleted. A job whose last open item is among them ends too. Returns how many ended how.
    """
    counts: defaultdict[str, Ended] = defaultdict(Ended)
    bodies = []
    for job_id, position, status in ended:
        counts[job_id][status] += 1
        bodies.append({"of_job": job_id, "at": position})
    if bodies:
        key = (item_bodies.c.job_id == bindparam("of_job")) & (item_bodies.c.position == bindparam("at"))
        connection.execute(delete(item_bodies).where(key), bodies)
    for job_id, by_status in counts.items():
        _count(connection, job_id, by_status, now_s)
    return sum(counts.values(), Ended())


def stop_items(connection: Connection, job_id: str, status: ItemStatus, now_s: float) -> Ended:
    """Ends a locked job's items that wait, and marks those that run, whose owners hear of it when they renew.

    One statement for both: an item may begin or come back meanwhile, and is then looked at as it is by then. Returns
    how many ended how.
    """
    is_open = (items.c.job_id == job_id) & items.c.status.in_((PENDING, RUNNING))
    waits = items.c.status == PENDING
    columns = {name: case((waits, value), else_=items.c[name]) for name, value in ended_columns(status, now_s).items()}
    connection.execute(update(items).where(is_open).values(stop_as=status.value, **columns))
    runs = select(items.c.position).where(items.c.job_id == job_id, items.c.status == RUNNING)
    gone = (item_bodies.c.job_id == job_id) & item_bodies.c.position.not_in(runs)
    connection.execute(delete(item_bodies).where(gone))
    num_running = connection.scalar(select(func.count()).select_from(runs.subquery())) or 0
    num_open = connection.scalar(select(jobs.c.num_open).where(jobs.c.job_id == job_id)) or 0
    ended = Ended({status: num_open - num_running})
    _count(connection, job_id, ended, now_s)
    return ended


def _count(connection: Connection, job_id: str, by_status: Ended, now_s: float) -> None:
    """Counts a locked job's items that ended, and ends the job with the last one."""
    counted = (
        update(jobs)
        .where(jobs.c.job_id == job_id)
        .values(
            num_open=jobs.c.num_open - by_status.total(),
            num_succeeded=jobs.c.num_succeeded + by_status[ItemStatus.SUCCEEDED],
            num_failed=jobs.c.num_failed + sum(by_status[status] for status in _COUNTED_AS_FAILED),
        )
        .returning(jobs.c.num_open, jobs.c.status)
    )
    num_open, status = connection.execute(counted).one()
    if num_open == 0:
        ending = {"status": _last_status(connection, job_id, JobStatus(status)).value, "ended_at": now_s}
        finalizing = func.coalesce(jobs.c.finalizing_at, now_s)
        connection.execute(update(jobs).where(jobs.c.job_id == job_id).values(finalizing_at=finalizing, **ending))


def _last_status(connection: Connection, job_id: str, status: JobStatus) -> JobStatus:
    """Returns how a job ends whose last item has ended."""
    if status is JobStatus.CANCELLING:
        return JobStatus.CANCELLED
    if status is JobStatus.FINALIZING:
        expired = (items.c.job_id == job_id) & (items.c.status == ItemStatus.EXPIRED.value)
        return JobStatus.EXPIRED if connection.scalar(select(exists().where(expired))) else JobStatus.COMPLETED
    return JobStatus.COMPLETED
