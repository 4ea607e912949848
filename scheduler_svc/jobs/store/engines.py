"""Makes what connects to a database: SQLite in a directory, or PostgreSQL by its URL.

Of either there are two engines: one writes, from one thread, and one reads. A commit of either has reached the disk.
"""

import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from scheduler_svc.jobs.interface import StoreRefused

FILE_NAME = "jobs.sqlite3"
NUM_READERS = 4
_BUSY_TIMEOUT_MS = 5000
_CONNECT_TIMEOUT_S = 5
_PRAGMAS = (
    f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}",
    "PRAGMA synchronous=FULL",  # NORMAL would lose the last commits with the power
    "PRAGMA foreign_keys=ON",
)
# A commit must not be less durable because a server says so to others, and no statement waits for ever.
_POSTGRESQL_OPTIONS = "-c synchronous_commit=on -c statement_timeout=30s -c idle_in_transaction_session_timeout=30s"


@dataclass(frozen=True, slots=True)
class Engines:
    """A database's two engines."""

    writing: Engine
    reading: Engine

    def dispose(self) -> None:
        """Closes the connections that are not in use."""
        self.writing.dispose()
        self.reading.dispose()


def sqlite_engines(directory: Path) -> Engines:
    """Returns the engines of the database in a directory, both of which are made if they do not exist.

    Raises:
        StoreRefused: They can't be.
    """
    path = directory / FILE_NAME
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)  # SQLite gives the files that it puts beside it the same mode
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StoreRefused(f"got {directory}, where {FILE_NAME} cannot be written: {error.strerror}") from None
    url = URL.create("sqlite+pysqlite", database=str(path))
    return Engines(_sqlite_engine(url, "BEGIN IMMEDIATE"), _sqlite_engine(url, "BEGIN"))


def postgresql_engines(given: str) -> Engines:
    """Returns the engines of a PostgreSQL database; nothing is connected yet.

    Args:
        given: Its URL, postgresql://USER:PASSWORD@HOST:PORT/DATABASE for example.

    Raises:
        StoreRefused: It is no such URL. The message does not repeat it, since it may hold a password.
    """
    try:
        url = make_url(given)
    except ArgumentError:
        url = None
    if url is None or url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise StoreRefused("what was given is not allowed, postgresql://USER:PASSWORD@HOST:PORT/DATABASE is")
    url = url.set(drivername="postgresql+psycopg")
    return Engines(_postgresql_engine(url, 1), _postgresql_engine(url, NUM_READERS))


def _sqlite_engine(url: URL, begin: str) -> Engine:
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # else Python's module begins transactions, later than they should
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        _use_wal(connection)

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _use_wal(connection: sqlite3.Connection) -> None:
    """Has the file written ahead of; two that first do so at a time get in each other's way, whatever the timeout."""
    deadline_s = time.monotonic() + _BUSY_TIMEOUT_MS / 1e3
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline_s:
                raise
            time.sleep(0.01)
        else:
            return


def _postgresql_engine(url: URL, num_connections: int) -> Engine:
    arguments = {
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "options": _POSTGRESQL_OPTIONS,
        "application_name": "qllm-scheduler",
        "tcp_user_timeout": 10_000,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
    }
    try:
        return create_engine(url, pool_size=num_connections, max_overflow=0, pool_pre_ping=True, connect_args=arguments)
    except ModuleNotFoundError as error:
        raise StoreRefused(f"PostgreSQL needs packages of an extra: pip install 'qllm[postgres]' ({error})") from None
