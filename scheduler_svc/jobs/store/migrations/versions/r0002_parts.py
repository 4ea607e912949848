"""Jobs that come in and go in parts, and the model that an item's progress is of."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds the columns; all jobs that are there are whole."""
    op.add_column("jobs", sa.Column("is_whole", sa.Boolean, nullable=False, server_default=sa.true()))
    op.add_column("items", sa.Column("progress_model", sa.Text))
    has_ended = sa.column("ended_at").is_not(None)
    op.create_index("jobs_ended", "jobs", ["ended_at"], sqlite_where=has_ended, postgresql_where=has_ended)
    # As an expression, which is written as the queries write it: a database compares the two by their form.
    is_hidden = sa.not_(sa.column("is_whole", sa.Boolean))
    op.create_index("jobs_hidden", "jobs", ["job_id"], sqlite_where=is_hidden, postgresql_where=is_hidden)
