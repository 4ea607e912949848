"""Who runs which item: claims, leases, and what comes back. Each function runs in the transaction that it is called in.

Every write of an item that runs is fenced: it has an effect only while the item runs, for that owner, in that attempt.
So what an owner writes that lost its item to another is refused, however late it comes.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, insert, select, tuple_, update

from scheduler_svc.jobs.job import Claim, ItemOutcome, ItemStatus, JobStatus, Progress, Return
from scheduler_svc.jobs.store.endings import PENDING, RUNNING, ended_columns, lock_jobs, settle, stop_items
from scheduler_svc.jobs.store.rows import claim_of, progress_columns
from scheduler_svc.jobs.store.schema import item_answers, item_bodies, items, jobs

_MOST_EXPIRED = 100  # jobs, or items, in one transaction
_MOST_CHARACTERS = 2000  # of an error's message
_KEY = tuple_(items.c.job_id, items.c.position)


def claim(connection: Connection, owner: str, limit: int, lease_s: float, now_s: float) -> list[Claim]:
    """Claims items that wait or whose lease is over, oldest job first, and none that another claims just now."""
    due = (
        select(items.c.job_id, items.c.position)
        .where(items.c.due_at <= now_s, items.c.stop_as.is_(None))
        .order_by(items.c.job_id, items.c.position)
        .limit(limit)
        .with_for_update(skip_locked=True)  # which SQLite neither has nor needs
        .cte("due")  # PostgreSQL may run a plain subquery more than once, and would then claim more than the limit
    )
    claimed = (
        update(items)
        .where(_KEY.in_(select(due.c.job_id, due.c.position)))
        .values(status=RUNNING, owner=owner, attempt=items.c.attempt + 1, due_at=now_s + lease_s)
        .returning(items.c.job_id, items.c.position)
    )
    keys = [tuple(row) for row in connection.execute(claimed)]
    if not keys:
        return []
    rows = connection.execute(_with_bodies().where(_KEY.in_(keys)).order_by(items.c.job_id, items.c.position))
    return [claim_of(row) for row in rows]


def renew(
    connection: Connection, owner: str, held: Sequence[tuple[Claim, Progress]], lease_s: float, now_s: float
) -> list[Claim]:
    """Renews leases and keeps progress; ends what is to stop, and returns it with what was lost."""
    over = _end_stopped(connection, owner, [each for each, _ in held], now_s)
    for each, progress in held:
        if each not in over:
            kept = {"due_at": now_s + lease_s, **progress_columns(progress)}
            if not _write(connection, owner, each, kept, items.c.stop_as.is_(None)):
                over.append(each)
    return over


def finish(connection: Connection, owner: str, ends: Sequence[tuple[Claim, ItemOutcome]], now_s: float) -> list[Claim]:
    """Records outcomes; returns the claims that were lost. What is recorded already is not lost."""
    lock_jobs(connection, (each.job_id for each, _ in ends))
    recorded: list[tuple[Claim, ItemOutcome]] = []
    refused: list[Claim] = []
    for each, outcome in ends:
        columns = ended_columns(outcome.status, now_s, outcome.error_code, _storable(outcome.error_message))
        if _write(connection, owner, each, columns):
            recorded.append((each, outcome))
        elif not _was_recorded(connection, owner, each, outcome):
            refused.append(each)
    answers = [
        {"job_id": each.job_id, "position": each.position, "body": outcome.body}
        for each, outcome in recorded
        if outcome.body
    ]
    if answers:
        connection.execute(insert(item_answers), answers)
    settle(connection, ((each.job_id, each.position, outcome.status) for each, outcome in recorded), now_s)
    return refused


def give_back(connection: Connection, owner: str, returns: Sequence[Return], now_s: float) -> list[Claim]:
    """Lets items wait again, with their progress; ends those that are to stop; returns the claims that were lost."""
    stopped = _end_stopped(connection, owner, [each.claim for each in returns], now_s)
    lost: list[Claim] = []
    for each in returns:
        columns = {
            "status": PENDING,
            "owner": None,
            "due_at": now_s + each.delay_s,
            "num_failures": items.c.num_failures + int(each.has_failed),
            **progress_columns(each.progress),
        }
        if each.claim not in stopped and not _write(connection, owner, each.claim, columns, items.c.stop_as.is_(None)):
            lost.append(each.claim)
    return lost


def expire(connection: Connection, now_s: float) -> bool:
    """Stops jobs whose window is over, and ends stopped items whose lease is; returns whether there may be more."""
    late = (
        select(jobs.c.job_id)
        .where(jobs.c.ended_at.is_(None), jobs.c.status == JobStatus.IN_PROGRESS.value, jobs.c.expires_at <= now_s)
        .order_by(jobs.c.job_id)
        .limit(_MOST_EXPIRED)
        .with_for_update(skip_locked=True)
    )
    late_ids = connection.scalars(late).all()
    for job_id in late_ids:
        finalizing = {"status": JobStatus.FINALIZING.value, "finalizing_at": now_s}
        connection.execute(update(jobs).where(jobs.c.job_id == job_id).values(**finalizing))
        stop_items(connection, job_id, ItemStatus.EXPIRED, now_s)
    left = select(items.c.job_id, items.c.position, items.c.attempt, items.c.owner, items.c.stop_as).where(
        items.c.due_at <= now_s, items.c.stop_as.is_not(None), items.c.status == RUNNING
    )
    rows = connection.execute(left.limit(_MOST_EXPIRED)).all()
    _end_as_marked(connection, rows, now_s)
    return len(late_ids) == _MOST_EXPIRED or len(rows) == _MOST_EXPIRED


def end_leases(connection: Connection, now_s: float) -> int:
    """Ends all leases now, whoever holds them; returns how many."""
    held = (items.c.due_at > now_s) & (items.c.status == RUNNING)
    return connection.execute(update(items).where(held).values(due_at=now_s)).rowcount


def _storable(text: str) -> str:
    """Returns the beginning of a text, without what a database can't hold."""
    return text[:_MOST_CHARACTERS].replace("\0", "").encode(errors="replace").decode()


def _with_bodies() -> Select[Any]:
    return (
        select(items, jobs.c.tenant, jobs.c.kind, jobs.c.expires_at, item_bodies.c.body)
        .join(jobs, jobs.c.job_id == items.c.job_id)
        .join(item_bodies, (item_bodies.c.job_id == items.c.job_id) & (item_bodies.c.position == items.c.position))
    )


def _write(
    connection: Connection, owner: str | None, claim: Any, columns: dict[str, Any], *further: ColumnElement[bool]
) -> bool:
    """Writes a claimed item, unless that was lost; returns whether it was written."""
    fence = (
        items.c.job_id == claim.job_id,
        items.c.position == claim.position,
        items.c.owner == owner,
        items.c.attempt == claim.attempt,
        items.c.status == RUNNING,
    )
    return connection.execute(update(items).where(*fence, *further).values(**columns)).rowcount == 1


def _was_recorded(connection: Connection, owner: str, claim: Claim, outcome: ItemOutcome) -> bool:
    """Whether this very attempt ended so before: whoever heard nothing of a commit says it again."""
    same = (
        items.c.job_id == claim.job_id,
        items.c.position == claim.position,
        items.c.owner == owner,
        items.c.attempt == claim.attempt,
        items.c.status == outcome.status.value,
    )
    return connection.execute(select(items.c.position).where(*same)).first() is not None


def _end_stopped(connection: Connection, owner: str, claims: Iterable[Claim], now_s: float) -> list[Claim]:
    """Ends an owner's items that are to stop, and returns their claims."""
    stopping = select(items.c.job_id, items.c.position, items.c.attempt, items.c.owner, items.c.stop_as).where(
        items.c.due_at.is_not(None), items.c.stop_as.is_not(None), items.c.owner == owner, items.c.status == RUNNING
    )
    rows = {(row.job_id, row.position, row.attempt): row for row in connection.execute(stopping)}
    ending = [each for each in claims if (each.job_id, each.position, each.attempt) in rows]
    _end_as_marked(connection, [rows[each.job_id, each.position, each.attempt] for each in ending], now_s)
    return ending


def _end_as_marked(connection: Connection, rows: Iterable[Any], now_s: float) -> None:
    """Ends items that run as it was said when they were stopped, but for those that another ended meanwhile."""
    marked = [*rows]
    lock_jobs(connection, (row.job_id for row in marked))
    ended = []
    for row in marked:
        status = ItemStatus(row.stop_as)
        if _write(connection, row.owner, row, ended_columns(status, now_s)):
            ended.append((row.job_id, row.position, status))
    settle(connection, ended, now_s)
