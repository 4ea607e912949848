"""The tables, as they stand after the last migration.

    jobs ──< items ── item_bodies     what is asked, until the item ends
                   └─ item_answers    what came of it
    files ──< file_pieces

A job or a file that is not whole is coming in or going away: nobody sees it. What changes often (`items`) is narrow: a
row of SQLite is written whole. Of an item `due_at` says from when on it may be claimed: a time of its own while it
waits, the end of its lease while it runs, NULL once it has ended, or while its job is coming in. Times are seconds
since 1970. Job ids sort by age, so that the oldest job's items are the first of the index.
"""

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    not_,
    true,
)

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("idempotency_key", Text),  # NULL: none
    Column("metadata", Text, nullable=False),  # JSON
    Column("input_file_id", Text, nullable=False),
    Column("errors", Text, nullable=False),  # JSON
    Column("num_items", Integer, nullable=False),
    Column("num_open", Integer, nullable=False),  # wait or run
    Column("num_succeeded", Integer, nullable=False),
    Column("num_failed", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("in_progress_at", Double),
    Column("cancelling_at", Double),
    Column("finalizing_at", Double),
    Column("ended_at", Double),
    Column("is_whole", Boolean, nullable=False, server_default=true()),
    UniqueConstraint("tenant", "idempotency_key", name="jobs_key"),
)
Index("jobs_of_tenant", jobs.c.tenant, jobs.c.job_id)
_has_ended, _is_hidden = jobs.c.ended_at.is_not(None), not_(jobs.c.is_whole)
Index("jobs_ended", jobs.c.ended_at, sqlite_where=_has_ended, postgresql_where=_has_ended)
Index("jobs_hidden", jobs.c.job_id, sqlite_where=_is_hidden, postgresql_where=_is_hidden)
_has_not_ended = jobs.c.ended_at.is_(None)
Index("jobs_expiring", jobs.c.expires_at, sqlite_where=_has_not_ended, postgresql_where=_has_not_ended)

items = Table(
    "items",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.job_id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("custom_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("due_at", Double),
    Column("owner", Text),
    Column("attempt", Integer, nullable=False),
    Column("num_failures", Integer, nullable=False),
    Column("stop_as", Text),  # how it is to end as soon as its owner hears of it
    Column("progress_tokens", LargeBinary),
    Column("progress_logprobs", LargeBinary),
    Column("progress_model", Text),
    Column("error_code", Text, nullable=False),
    Column("error_message", Text, nullable=False),
    Column("ended_at", Double),
)
_is_open = items.c.due_at.is_not(None)
_is_stopping = _is_open & items.c.stop_as.is_not(None)
Index("items_open", items.c.job_id, items.c.position, sqlite_where=_is_open, postgresql_where=_is_open)
Index("items_stopping", items.c.job_id, items.c.position, sqlite_where=_is_stopping, postgresql_where=_is_stopping)


def _of_item(name: str) -> Table:
    """Returns a table of what is large and belongs to an item."""
    return Table(
        name,
        metadata,
        Column("job_id", Text, primary_key=True),
        Column("position", Integer, primary_key=True, autoincrement=False),
        Column("body", LargeBinary, nullable=False),
        ForeignKeyConstraint(["job_id", "position"], ["items.job_id", "items.position"], ondelete="CASCADE"),
    )


item_bodies = _of_item("item_bodies")
item_answers = _of_item("item_answers")

files = Table(
    "files",
    metadata,
    Column("file_id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("num_bytes", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("is_whole", Boolean, nullable=False),
)
Index("files_of_tenant", files.c.tenant, files.c.file_id)

file_pieces = Table(
    "file_pieces",
    metadata,
    Column("file_id", Text, ForeignKey("files.file_id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("content", LargeBinary, nullable=False),
)
