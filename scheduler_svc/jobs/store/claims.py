"""Who runs which item: claims, leases, and what comes back. Each function runs in the transaction that it is called in.

Every write of an item that runs is fenced: it has an effect only while the item runs, for that owner, in that attempt.
So what an owner writes that lost its item to another is refused, however late it comes.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Update, bindparam, insert, select, tuple_, update

from scheduler_svc.jobs.job import Claim, ItemOutcome, ItemStatus, JobStatus, Progress, Return
from scheduler_svc.jobs.store.endings import PENDING, RUNNING, Ended, ended_columns, lock_jobs, settle, stop_items
from scheduler_svc.jobs.store.rows import claim_of, progress_columns
from scheduler_svc.jobs.store.schema import item_answers, item_bodies, items, jobs

_MOST_EXPIRED = 100  # jobs, or items, in one transaction
_MOST_CHARACTERS = 2000  # of an error's message
_KEY = tuple_(items.c.job_id, items.c.position)


def _fenced(**columns: Any) -> Update:
    """Returns what writes an item that runs, for the owner and in the attempt that it is told."""
    return (
        update(items)
        .where(
            items.c.job_id == bindparam("of_job"),
            items.c.position == bindparam("at"),
            items.c.owner == bindparam("by"),
            items.c.attempt == bindparam("in_attempt"),
            items.c.status == RUNNING,
        )
        .values(columns)
    )


def _new(*names: str) -> dict[str, Any]:
    """Returns columns whose values are told when the statement is executed."""
    return {name: bindparam(f"new_{name}") for name in names}


_PROGRESS = ("progress_tokens", "progress_logprobs", "progress_model")

# Made once: making a statement takes several times as long as executing it.
_CLAIMED = (
    select(items, jobs.c.tenant, jobs.c.kind, jobs.c.expires_at, item_bodies.c.body)
    .join(jobs, jobs.c.job_id == items.c.job_id)
    .join(item_bodies, (item_bodies.c.job_id == items.c.job_id) & (item_bodies.c.position == items.c.position))
    .where(items.c.job_id == bindparam("of_job"), items.c.position.in_(bindparam("positions", expanding=True)))
    .order_by(items.c.position)
)
_HAS_NOT_TO_STOP = items.c.stop_as.is_(None)
_END = _fenced(**_new(*ended_columns(ItemStatus.SUCCEEDED, 0.0)))
_RENEW = _fenced(**_new("due_at", *_PROGRESS)).where(_HAS_NOT_TO_STOP)
_GIVE_BACK = _fenced(
    status=PENDING,
    owner=None,
    num_failures=items.c.num_failures + bindparam("new_further_failures"),
    **_new("due_at", *_PROGRESS),
).where(_HAS_NOT_TO_STOP)


def claim(
    connection: Connection, owner: str, limit: int, lease_s: float, now_s: float, but_of: Collection[str]
) -> list[Claim]:
    """Claims items that wait or whose lease is over, oldest job first, and none that another claims just now.

    Args:
        connection: The transaction.
        owner: Who claims.
        limit: How many at most.
        lease_s: For how long.
        now_s: The time.
        but_of: Tenants whose items are left where they are.
    """
    is_due = [items.c.due_at <= now_s, items.c.stop_as.is_(None)]
    if but_of:
        is_due.append(items.c.job_id.not_in(select(jobs.c.job_id).where(jobs.c.tenant.in_(but_of))))
    due = (
        select(items.c.job_id, items.c.position)
        .where(*is_due)
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
    positions: defaultdict[str, list[int]] = defaultdict(list)
    for job_id, position in connection.execute(claimed):
        positions[job_id].append(position)
    # Job by job: for pairs of both SQLite would read all items that there are.
    told = [{"of_job": job_id, "positions": positions[job_id]} for job_id in sorted(positions)]
    return [claim_of(row) for parameters in told for row in connection.execute(_CLAIMED, parameters)]


def renew(
    connection: Connection, owner: str, held: Sequence[tuple[Claim, Progress]], lease_s: float, now_s: float
) -> tuple[list[Claim], Ended]:
    """Renews leases and keeps progress; ends what is to stop, and returns it with what was lost, and what ended."""
    over, ended = _end_stopped(connection, owner, [each for each, _ in held], now_s)
    for each, progress in held:
        if each not in over:
            kept = {"due_at": now_s + lease_s, **progress_columns(progress)}
            if not _write(connection, _RENEW, owner, each, kept):
                over.append(each)
    return over, ended


def finish(
    connection: Connection, owner: str, ends: Sequence[tuple[Claim, ItemOutcome]], now_s: float
) -> tuple[list[Claim], Ended]:
    """Records outcomes; returns the claims that were lost, and what ended. What is recorded already is not lost."""
    lock_jobs(connection, (each.job_id for each, _ in ends))
    recorded: list[tuple[Claim, ItemOutcome]] = []
    refused: list[Claim] = []
    for each, outcome in ends:
        columns = ended_columns(outcome.status, now_s, outcome.error_code, _storable(outcome.error_message))
        if _write(connection, _END, owner, each, columns):
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
    ended = settle(connection, ((each.job_id, each.position, outcome.status) for each, outcome in recorded), now_s)
    return refused, ended


def give_back(connection: Connection, owner: str, returns: Sequence[Return], now_s: float) -> tuple[list[Claim], Ended]:
    """Lets items wait again, with their progress; ends those that are to stop.

    Returns the claims that were lost, and what ended.
    """
    stopped, ended = _end_stopped(connection, owner, [each.claim for each in returns], now_s)
    lost: list[Claim] = []
    for each in returns:
        columns = {
            "due_at": now_s + each.delay_s,
            "further_failures": int(each.has_failed),
            **progress_columns(each.progress),
        }
        if each.claim not in stopped and not _write(connection, _GIVE_BACK, owner, each.claim, columns):
            lost.append(each.claim)
    return lost, ended


def expire(connection: Connection, now_s: float) -> tuple[bool, Ended]:
    """Stops jobs whose window is over, and ends stopped items whose lease is.

    Returns whether there may be more, and what ended.
    """
    late = (
        select(jobs.c.job_id)
        .where(jobs.c.ended_at.is_(None), jobs.c.status == JobStatus.IN_PROGRESS.value, jobs.c.expires_at <= now_s)
        .order_by(jobs.c.job_id)
        .limit(_MOST_EXPIRED)
        .with_for_update(skip_locked=True)
    )
    late_ids = connection.scalars(late).all()
    ended = Ended()
    for job_id in late_ids:
        finalizing = {"status": JobStatus.FINALIZING.value, "finalizing_at": now_s}
        connection.execute(update(jobs).where(jobs.c.job_id == job_id).values(**finalizing))
        ended += stop_items(connection, job_id, ItemStatus.EXPIRED, now_s)
    left = select(items.c.job_id, items.c.position, items.c.attempt, items.c.owner, items.c.stop_as).where(
        items.c.due_at <= now_s, items.c.stop_as.is_not(None), items.c.status == RUNNING
    )
    rows = connection.execute(left.limit(_MOST_EXPIRED)).all()
    ended += _end_as_marked(connection, rows, now_s)
    return len(late_ids) == _MOST_EXPIRED or len(rows) == _MOST_EXPIRED, ended


def end_leases(connection: Connection, now_s: float) -> int:
    """Ends all leases now, whoever holds them; returns how many."""
    held = (items.c.due_at > now_s) & (items.c.status == RUNNING)
    return connection.execute(update(items).where(held).values(due_at=now_s)).rowcount


def _storable(text: str) -> str:
    """Returns the beginning of a text, without what a database can't hold."""
    return text[:_MOST_CHARACTERS].replace("\0", "").encode(errors="replace").decode()


def _write(connection: Connection, statement: Update, owner: str | None, claim: Any, columns: dict[str, Any]) -> bool:
    """Writes a claimed item, unless that was lost; returns whether it was written."""
    fence = {"of_job": claim.job_id, "at": claim.position, "by": owner, "in_attempt": claim.attempt}
    values = {f"new_{name}": value for name, value in columns.items()}
    return connection.execute(statement, fence | values).rowcount == 1


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


def _end_stopped(
    connection: Connection, owner: str, claims: Iterable[Claim], now_s: float
) -> tuple[list[Claim], Ended]:
    """Ends an owner's items that are to stop, and returns their claims, and what ended."""
    stopping = select(items.c.job_id, items.c.position, items.c.attempt, items.c.owner, items.c.stop_as).where(
        items.c.due_at.is_not(None), items.c.stop_as.is_not(None), items.c.owner == owner, items.c.status == RUNNING
    )
    rows = {(row.job_id, row.position, row.attempt): row for row in connection.execute(stopping)}
    ending = [each for each in claims if (each.job_id, each.position, each.attempt) in rows]
    marked = [rows[each.job_id, each.position, each.attempt] for each in ending]
    return ending, _end_as_marked(connection, marked, now_s)


def _end_as_marked(connection: Connection, rows: Iterable[Any], now_s: float) -> Ended:
    """Ends items that run as it was said when they were stopped, but for those that another ended meanwhile."""
    marked = [*rows]
    lock_jobs(connection, (row.job_id for row in marked))
    ended = []
    for row in marked:
        status = ItemStatus(row.stop_as)
        if _write(connection, _END, row.owner, row, ended_columns(status, now_s)):
            ended.append((row.job_id, row.position, status))
    return settle(connection, ended, now_s)
