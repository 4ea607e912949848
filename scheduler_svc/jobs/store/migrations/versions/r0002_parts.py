"""Jobs that come in and go in parts, and the model that an item's progress is of."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds the columns; all jobs that are there are whole."""
    op.add_column("jobs", sa.Column("is_whole", sa.Boolean, nullable=False, server_default=sa.true()))
    op.add_column("items", sa.Column("progress_model", sa.Text))
    _make_partial_index("jobs_ended", "jobs", ["ended_at"], "ended_at IS NOT NULL")
    _make_partial_index("jobs_hidden", "jobs", ["job_id"], "NOT is_whole")


def _make_partial_index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
