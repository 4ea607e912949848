import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from scheduler_svc.jobs.interface import StoreRefused, StoreUnavailable
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
