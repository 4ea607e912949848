"""The store of jobs that a run's schedulers share: SQLite in a directory, or a PostgreSQL that can be killed."""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import create_engine, func, select

from scheduler_svc.jobs.store.engines import FILE_NAME
from scheduler_svc.jobs.store.schema import items
from tests.support.jobs.postgresql import PostgreSQL, started_postgresql

_DATABASE = "qllm"


@dataclass(frozen=True, slots=True)
class Attempts:
    """How often items were begun: that many more than once, and one of them most often."""

    num_again: int = 0
    most: int = 0


@dataclass(frozen=True, slots=True)
class StoreOfJobs:
    """A store that is there for the time of a run.

    Attributes:
        options: Tell a scheduler where it is.
        url: Tells SQLAlchemy.
        server: What can be restarted; None: SQLite has no process.
    """

    options: tuple[str, ...]
    url: str
    server: PostgreSQL | None = None

    async def restart(self, away_s: float) -> float:
        """Kills the server with all connections, and starts it again after a while; returns when it was killed."""
        assert self.server is not None
        at_s = time.monotonic()
        await asyncio.to_thread(self.server.kill)
        await asyncio.sleep(away_s)
        await asyncio.to_thread(self.server.start)
        return at_s

    def attempts(self) -> Attempts:
        """Counts the attempts at all items."""
        engine = create_engine(self.url)
        try:
            with engine.connect() as connection:
                again = select(func.count()).select_from(items).where(items.c.attempt > 1)
                most = connection.scalar(select(func.max(items.c.attempt)))
                return Attempts(connection.scalar(again) or 0, most or 0)
        finally:
            engine.dispose()


@contextlib.contextmanager
def sqlite_store() -> Iterator[StoreOfJobs]:
    """A directory for one scheduler."""
    with tempfile.TemporaryDirectory(prefix="qllm-faults-", dir="/tmp") as directory:
        path = Path(directory) / "state"
        yield StoreOfJobs(("--state-dir", str(path)), f"sqlite:///{path / FILE_NAME}")


@contextlib.contextmanager
def postgresql_store() -> Iterator[StoreOfJobs]:
    """A PostgreSQL for several schedulers; only where its programs are (`why_no_postgresql`)."""
    with started_postgresql() as server:
        url = server.create_database(_DATABASE)
        yield StoreOfJobs(("--state-url", url), url.replace("postgresql:", "postgresql+psycopg:"), server)
