import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from scheduler_svc.jobs.interface import StoreRefused, StoreUnavailable
from scheduler_svc.jobs.store import migrate
from scheduler_svc.jobs.store.schema import metadata
from scheduler_svc.jobs.store.store import JobStore
from tests.support.jobs.clock import Clock
from tests.support.jobs.new_jobs import added
from tests.unit.scheduler_svc.jobs.conftest import open_store


async def test_migrations_make_the_tables_that_the_code_uses(store: JobStore) -> None:
    def differences(connection: object) -> list[object]:
        return compare_metadata(MigrationContext.configure(connection), metadata)  # type: ignore[arg-type]

    assert await store._database.read(differences) == []


async def test_schedulers_that_start_together_migrate_once(database_url: str, clock: Clock) -> None:
    stores = [open_store(database_url, clock) for _ in range(4)]
    await asyncio.gather(*[store.open() for store in stores])
    await asyncio.gather(*[added(store) for store in stores])
    assert len((await stores[0].jobs("", None, 10))[0]) == 4
    await asyncio.gather(*[store.close() for store in stores])


OLD_JOB = """
    INSERT INTO jobs (job_id, tenant, kind, status, idempotency_key, metadata, input_file_id, errors, num_items,
                      num_open, num_succeeded, num_failed, created_at, expires_at)
    VALUES ('batch_1', 't', '/v1/completions', 'in_progress', 'k', '{}', '', '[]', 1, 1, 0, 0, 1, 9e9)
"""
OLD_ITEM = """
    INSERT INTO items (job_id, position, custom_id, status, due_at, attempt, num_failures, error_code, error_message)
    VALUES ('batch_1', 0, 'a', 'pending', 1, 0, 0, '', '')
"""
OLD_BODY = "INSERT INTO item_bodies (job_id, position, body) VALUES ('batch_1', 0, '{}')"


async def test_jobs_of_an_earlier_version_are_whole_and_run(
    database_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade = migrate.command.upgrade
    with monkeypatch.context() as earlier:
        earlier.setattr(migrate.command, "upgrade", lambda config, _: upgrade(config, "0001"))
        first = open_store(database_url, clock)
        await first.open()
    for statement in (OLD_JOB, OLD_ITEM, OLD_BODY):
        await first._database.write(lambda connection, given=statement: connection.execute(text(given)).rowcount)
    await first.close()
    second = open_store(database_url, clock)
    assert await second.job_of_key("t", "k") == await second.job("t", "batch_1") is not None
    assert [claim.custom_id for claim in await second.claim("a", 5, 30.0)] == ["a"]
    await second.close()


async def test_what_was_stored_outlives_the_store(database_url: str, clock: Clock) -> None:
    first = open_store(database_url, clock)
    job_id = await added(first)
    await first.close()
    second = open_store(database_url, clock)
    assert await second.job("", job_id) is not None
    await second.close()


async def test_the_tables_of_a_later_version_are_refused(store: JobStore, database_url: str, clock: Clock) -> None:
    await store.open()
    await store._database.write(
        lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'")).rowcount
    )
    later = open_store(database_url, clock)
    with pytest.raises(StoreRefused, match="another version"):
        await later.open()
    await later.close()


async def test_tables_that_somebody_took_away_are_an_outage_and_no_defect(store: JobStore) -> None:
    await store.open()
    await store._database.write(lambda connection: connection.execute(text("DROP TABLE item_answers")).close())
    with pytest.raises(StoreUnavailable, match="item_answers"):
        await store._results("", "batch_1", -1)
    with pytest.raises(StoreUnavailable, match="items_of_nobody"):
        await store._database.write(lambda connection: connection.execute(text("DELETE FROM items_of_nobody")).close())
