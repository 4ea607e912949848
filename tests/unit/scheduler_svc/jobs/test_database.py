import asyncio
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, text

from scheduler_svc.jobs.interface import StoreRefused, StoreUnavailable
from scheduler_svc.jobs.store.database import Act, Database
from scheduler_svc.jobs.store.engines import FILE_NAME, postgresql_engines, sqlite_engines
from scheduler_svc.jobs.store.store import JobStore
from tests.support.jobs.clock import Clock
from tests.support.jobs.new_jobs import SUCCEEDED, added, claimed, new_items, new_job, statuses
from tests.support.jobs.postgresql import running_postgresql


def insert(number: int) -> Act[int]:
    return lambda connection: connection.execute(text("INSERT INTO numbers VALUES (:n)"), {"n": number}).rowcount


def numbers(connection: Connection) -> list[int]:
    return [row.n for row in connection.execute(text("SELECT n FROM numbers ORDER BY n"))]


def count_commits(database: Database) -> list[int]:
    commits = [0]

    @event.listens_for(database._engines.writing, "commit")
    def count(_connection: object) -> None:
        commits[0] += 1

    return commits


def modes(directory: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    engines = sqlite_engines(tmp_path)

    def prepare() -> None:
        with engines.writing.begin() as connection:
            connection.execute(text("CREATE TABLE numbers (n INTEGER PRIMARY KEY)"))

    database = Database(engines, prepare)
    yield database
    await database.close()


async def test_writes_that_come_during_a_commit_share_the_next_one(database: Database) -> None:
    await database.write(insert(0))
    commits = count_commits(database)
    is_held, go_on = threading.Event(), threading.Event()

    def hold(_connection: Connection) -> None:
        is_held.set()
        go_on.wait()

    holding = asyncio.create_task(database.write(hold))
    await asyncio.to_thread(is_held.wait)
    writing = [asyncio.create_task(database.write(insert(number))) for number in range(1, 21)]
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(holding, *writing)
    assert commits == [2]
    assert await database.read(numbers) == [*range(21)]


async def test_a_write_that_fails_leaves_nothing_and_takes_none_with_it(database: Database) -> None:
    def half(connection: Connection) -> None:
        connection.execute(text("INSERT INTO numbers VALUES (7)"))
        raise LookupError("half done")

    outcomes = await asyncio.gather(
        *[database.write(act) for act in (insert(1), half, insert(1), insert(2))], return_exceptions=True
    )
    assert [type(outcome).__name__ for outcome in outcomes] == ["int", "LookupError", "IntegrityError", "int"]
    assert await database.read(numbers) == [1, 2]


async def test_the_event_loop_goes_on_while_a_transaction_runs(database: Database) -> None:
    go_on = threading.Event()
    writing = asyncio.create_task(database.write(lambda _: go_on.wait()))
    reading = asyncio.create_task(database.read(lambda _: go_on.wait()))
    await asyncio.sleep(0)
    go_on.set()  # it would never be
    assert await writing
    assert await reading


async def test_a_write_is_carried_out_though_nobody_waits_for_it(database: Database) -> None:
    await database.write(insert(1))
    writing = asyncio.create_task(database.write(insert(2)))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await database.write(insert(3))
    assert await database.read(numbers) == [1, 2, 3]


async def test_closing_carries_out_what_waits_and_refuses_what_comes(tmp_path: Path) -> None:
    database = Database(sqlite_engines(tmp_path), lambda: None)
    writing = [asyncio.create_task(database.write(lambda _, i=i: i)) for i in range(5)]
    await asyncio.sleep(0)
    await database.close()
    assert await asyncio.gather(*writing) == [0, 1, 2, 3, 4]
    with pytest.raises(StoreUnavailable, match="closed"):
        await database.write(lambda _: None)
    with pytest.raises(StoreUnavailable, match="closed"):
        await database.read(lambda _: None)


async def test_a_disk_that_is_full_is_said_and_over_with_room(tmp_path: Path, clock: Clock) -> None:
    store = JobStore.in_directory(tmp_path, clock)
    await store.open()
    engine = store._database._engines.writing
    with engine.connect() as connection:
        connection.execute(text("PRAGMA max_page_count=1"))  # SQLite takes the present size where that is more
    with pytest.raises(StoreUnavailable, match="full"):
        await added(store, 2000)
    with engine.connect() as connection:
        connection.execute(text("PRAGMA max_page_count=1000000"))
    job_id = await added(store)
    assert [claim.job_id for claim in await claimed(store)] == [job_id]
    await store.close()


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).touch(0o644)
    sqlite_engines(tmp_path).dispose()
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


async def test_a_commit_has_reached_the_disk(tmp_path: Path, clock: Clock) -> None:
    store = JobStore.in_directory(tmp_path, clock)

    def pragmas(connection: Connection) -> tuple[object, ...]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return tuple(connection.execute(text(f"PRAGMA {name}")).scalar() for name in names)

    assert await store._database.write(pragmas) == ("wal", 2, 1)
    await added(store)
    assert modes(tmp_path) == {0o600}
    await store.close()


@pytest.mark.parametrize("url", ["mysql://host/base", "no url", "sqlite:///file", "postgresql+asyncpg://u:secret@h/d"])
def test_a_url_that_is_not_postgresqls_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(StoreRefused) as refused:
        postgresql_engines(url)
    assert "secret" not in str(refused.value)


def test_a_directory_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(StoreRefused, match=FILE_NAME):
        sqlite_engines(tmp_path)


async def test_a_file_that_is_no_database_is_said(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"something else, which is long enough to be looked at" * 100)
    store = JobStore.in_directory(tmp_path, clock)
    with pytest.raises(StoreUnavailable, match="not a database"):
        await store.open()
    await store.close()


async def test_a_locked_file_is_waited_for(tmp_path: Path, clock: Clock) -> None:
    store = JobStore.in_directory(tmp_path, clock)
    await store.open()
    other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    adding = asyncio.create_task(store.create_job(new_job(), new_items(1)))
    await asyncio.sleep(0.05)
    assert not adding.done()
    other.execute("COMMIT")
    other.close()
    assert (await adding).counts.total == 1
    await store.close()


async def test_a_store_goes_on_after_postgresql_was_restarted_under_it(clock: Clock) -> None:
    with running_postgresql() as server:
        store = JobStore.at_url(server.create_database("qllm"), clock)
        job_id = await added(store, 2)
        claims = await claimed(store)
        server.kill()
        with pytest.raises(StoreUnavailable):
            await store.finish("a", [(claims[0], SUCCEEDED)])
        with pytest.raises(StoreUnavailable):
            await store.job("", job_id)
        server.start()
        assert await store.finish("a", [(claim, SUCCEEDED) for claim in claims]) == []
        assert await statuses(store, job_id) == {0: "succeeded", 1: "succeeded"}
        await store.close()


async def test_a_store_that_was_not_there_at_the_start_is_used_once_it_is(clock: Clock) -> None:
    with running_postgresql() as server:
        url = server.create_database("qllm")
        server.stop()
        store = JobStore.at_url(url, clock)
        with pytest.raises(StoreUnavailable):
            await store.open()
        server.start()
        assert await store.jobs("", None, 1) == ([], False)
        await store.close()
