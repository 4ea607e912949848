"""What ended long ago is deleted whole, a little at a time."""

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
from sqlalchemy import Connection, event

from scheduler_svc.jobs.store import cleaning
from scheduler_svc.jobs.store import store as store_module
from scheduler_svc.jobs.store.store import JobStore
from tests.support.jobs.clock import Clock
from tests.support.jobs.new_jobs import SUCCEEDED, added, claimed, ended, number_of_rows
from tests.unit.scheduler_svc.jobs.conftest import open_store

KEEP_S = 1000.0
TABLES = ("jobs", "items", "item_bodies", "item_answers", "files", "file_pieces")


@pytest.fixture
async def store(database_url: str, clock: Clock) -> AsyncIterator[JobStore]:
    store = open_store(database_url, clock, KEEP_S)
    yield store
    await store.close()


async def add_ended(store: JobStore, num_items: int, key: str = "") -> str:
    job_id = await added(store, num_items, key=key)
    assert await store.finish("a", [(claim, SUCCEEDED) for claim in await claimed(store)]) == []
    return job_id


async def content() -> AsyncIterator[bytes]:
    yield b"x" * (3 << 19)


async def test_a_job_is_kept_for_its_time_after_it_ended_and_then_deleted_whole(store: JobStore, clock: Clock) -> None:
    job_id = await add_ended(store, 3, key="k")
    clock.now_s += KEEP_S
    await store.clean()
    assert len(await ended(store, job_id)) == 3
    clock.now_s += 1
    await store.clean()
    assert await store.job("", job_id) is None
    assert [await number_of_rows(store, table) for table in TABLES] == [0] * 6


async def test_a_job_that_has_not_ended_is_kept_however_old_it_is(store: JobStore, clock: Clock) -> None:
    job_id = await added(store, 2, window_s=100 * KEEP_S)
    clock.now_s += 50 * KEEP_S
    await store.clean()
    assert await store.job("", job_id) is not None
    assert len(await claimed(store)) == 2


async def test_a_large_job_is_seen_whole_or_not_at_all_while_it_is_deleted_in_parts(
    store: JobStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaning, "_ITEMS_AT_ONCE", 2)
    monkeypatch.setattr(store_module, "_CLEANED_AT_ONCE", 1)
    job_id = await add_ended(store, 5, key="k")
    clock.now_s += KEEP_S + 1
    left = []
    for _ in range(3):
        await store.clean()
        assert await store.job("", job_id) is None
        assert await store.jobs("", None, 10) == ([], False)
        assert await ended(store, job_id) == []
        assert await store.job_of_key("", "k") is None
        left.append(await number_of_rows(store, "items"))
    assert left == [3, 1, 0]
    assert await number_of_rows(store, "jobs") == 0


async def test_a_key_of_a_job_that_was_deleted_makes_a_new_job(store: JobStore, clock: Clock) -> None:
    first = await add_ended(store, 1, key="k")
    clock.now_s += KEEP_S + 1
    await store.clean()
    assert await added(store, 1, key="k") != first


async def test_files_are_kept_for_their_time(store: JobStore, clock: Clock) -> None:
    file = await store.create_file("", "f", "batch", content())
    clock.now_s += KEEP_S
    await store.clean()
    assert await store.file("", file.file_id) == file
    clock.now_s += 1
    await store.clean()
    assert await store.file("", file.file_id) is None
    assert await number_of_rows(store, "file_pieces") == 0


async def test_a_store_that_keeps_all_deletes_nothing(database_url: str, clock: Clock) -> None:
    store = open_store(database_url, clock)
    job_id = await add_ended(store, 1)
    clock.now_s += 1e9
    await store.clean()
    assert len(await ended(store, job_id)) == 1
    await store.close()


async def test_looking_for_what_is_over_reads_no_job_that_is_not(tmp_path: Path, clock: Clock) -> None:
    store = JobStore.in_directory(tmp_path, clock, KEEP_S)
    await add_ended(store, 1)
    seen: list[str] = []

    def plans_of(act: Callable[[Connection], object]) -> Callable[[Connection], object]:
        def explained(connection: Connection) -> None:
            def note(_conn: object, _cursor: object, statement: str, given: Sequence[object], *_: object) -> None:
                if statement.startswith("SELECT jobs"):
                    plan = connection.connection.execute(f"EXPLAIN QUERY PLAN {statement}", given)  # type: ignore[attr-defined]
                    seen.extend(str(row[3]) for row in plan)

            event.listen(connection, "before_cursor_execute", note)
            act(connection)

        return explained

    await store._database.write(plans_of(lambda db: cleaning.hide_old_jobs(db, 0.0)))
    await store._database.write(plans_of(lambda db: cleaning.clean(db, clock.now_s, 0.0)))
    await store.close()
    assert len(seen) == 2
    assert "jobs_ended" in seen[0]
    assert "jobs_hidden" in seen[1]
