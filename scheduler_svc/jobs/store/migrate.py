"""Brings a database's tables to where this version wants them, and refuses those of a later version."""

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Engine, text

from scheduler_svc.jobs.interface import StoreRefused

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x716C6C6D6A6F6273  # of PostgreSQL, for whoever migrates: "qllmjobs"


def migrate(engine: Engine) -> None:
    """Runs the migrations that a database does not have yet, in one transaction; another scheduler waits meanwhile.

    Args:
        engine: The one that writes: with SQLite its transactions exclude each other from their beginning.

    Raises:
        StoreRefused: The database was made by a later version.
        sqlalchemy.exc.DBAPIError: It can't be reached or written.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it would say each time which database it is
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise StoreRefused(f"what was given holds jobs of another version of qllm: {error}") from None
