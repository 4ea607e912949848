"""A store for each kind of database; what is promised of one is promised of the other."""

from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import pytest

from scheduler_svc.jobs.store.store import JobStore
from tests.support.jobs.clock import Clock
from tests.support.jobs.postgresql import PostgreSQL, running_postgresql

_numbers = count()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    with running_postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new, empty database is: a directory, or a URL of PostgreSQL."""
    if request.param == "sqlite":
        return str(tmp_path)
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.create_database(f"test{next(_numbers)}")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def open_store(url: str, clock: Clock, keep_s: float | None = None) -> JobStore:
    if url.startswith("postgresql:"):
        return JobStore.at_url(url, clock, keep_s)
    return JobStore.in_directory(Path(url), clock, keep_s)


@pytest.fixture
async def store(database_url: str, clock: Clock) -> AsyncIterator[JobStore]:
    store = open_store(database_url, clock)
    yield store
    await store.close()


@pytest.fixture
async def other_store(store: JobStore, database_url: str, clock: Clock) -> AsyncIterator[JobStore]:
    """Another scheduler's, on the same database."""
    other = open_store(database_url, clock)
    yield other
    await other.close()
