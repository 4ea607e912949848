"""Jobs with their items, and files."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes the first tables."""
    _make_jobs()
    _make_items()
    for name in ("item_bodies", "item_answers"):
        op.create_table(
            name,
            sa.Column("job_id", sa.Text, primary_key=True),
            sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("body", sa.LargeBinary, nullable=False),
            sa.ForeignKeyConstraint(["job_id", "position"], ["items.job_id", "items.position"], ondelete="CASCADE"),
        )
    _make_files()


def _make_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("job_id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("input_file_id", sa.Text, nullable=False),
        sa.Column("errors", sa.Text, nullable=False),
        sa.Column("num_items", sa.Integer, nullable=False),
        sa.Column("num_open", sa.Integer, nullable=False),
        sa.Column("num_succeeded", sa.Integer, nullable=False),
        sa.Column("num_failed", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("in_progress_at", sa.Double),
        sa.Column("cancelling_at", sa.Double),
        sa.Column("finalizing_at", sa.Double),
        sa.Column("ended_at", sa.Double),
        sa.UniqueConstraint("tenant", "idempotency_key", name="jobs_key"),
    )
    op.create_index("jobs_of_tenant", "jobs", ["tenant", "job_id"])
    _make_partial_index("jobs_expiring", "jobs", ["expires_at"], "ended_at IS NULL")


def _make_items() -> None:
    op.create_table(
        "items",
        sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.job_id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("custom_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("due_at", sa.Double),
        sa.Column("owner", sa.Text),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("num_failures", sa.Integer, nullable=False),
        sa.Column("stop_as", sa.Text),
        sa.Column("progress_tokens", sa.LargeBinary),
        sa.Column("progress_logprobs", sa.LargeBinary),
        sa.Column("error_code", sa.Text, nullable=False),
        sa.Column("error_message", sa.Text, nullable=False),
        sa.Column("ended_at", sa.Double),
    )
    _make_partial_index("items_open", "items", ["job_id", "position"], "due_at IS NOT NULL")
    _make_partial_index("items_stopping", "items", ["job_id", "position"], "due_at IS NOT NULL AND stop_as IS NOT NULL")


def _make_files() -> None:
    op.create_table(
        "files",
        sa.Column("file_id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("num_bytes", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("is_whole", sa.Boolean, nullable=False),
    )
    op.create_index("files_of_tenant", "files", ["tenant", "file_id"])
    op.create_table(
        "file_pieces",
        sa.Column("file_id", sa.Text, sa.ForeignKey("files.file_id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )


def _make_partial_index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
