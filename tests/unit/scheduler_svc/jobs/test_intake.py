"""Large jobs come in over several commits, and nobody notices before the last one."""

import asyncio
import tracemalloc
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from scheduler_svc.jobs import chunks
from scheduler_svc.jobs.chunks import chunks_of
from scheduler_svc.jobs.job import ItemCounts, JobStatus, NewItem
from scheduler_svc.jobs.store.store import JobStore
from tests.support.jobs.clock import Clock
from tests.support.jobs.new_jobs import claimed, each, new_items, new_job, number_of_rows

DAY_S = 86400.0


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MAX_CHUNK_ITEMS", 2)


class SlowSender:
    """Sends items, and waits after some of them until the test lets it go on, or fail."""

    def __init__(self, num_before: int) -> None:
        self.num_before = num_before
        self.has_sent, self.goes_on = asyncio.Event(), asyncio.Event()
        self.error: Exception | None = None

    async def items(self) -> AsyncGenerator[NewItem, None]:
        async for item in new_items(self.num_before):
            yield item
        self.has_sent.set()
        await self.goes_on.wait()
        if self.error is not None:
            raise self.error
        yield NewItem("last", b"last")


async def test_a_job_in_many_chunks_is_one_job(store: JobStore, clock: Clock) -> None:
    job = await store.create_job(new_job(window_s=60), new_items(7))
    assert (job.status, job.counts) == (JobStatus.IN_PROGRESS, ItemCounts(7, 0, 0))
    assert (job.created_at_s, job.expires_at_s) == (clock.now_s, clock.now_s + 60)
    claims = await claimed(store)
    assert [(claim.position, claim.custom_id, claim.body) for claim in claims] == [
        (at, f"item-{at}", b"body %d" % at) for at in range(7)
    ]


async def test_nothing_of_a_job_is_seen_or_claimed_while_it_comes_in(store: JobStore) -> None:
    sender = SlowSender(5)
    creating = asyncio.create_task(store.create_job(new_job("t", "k"), sender.items()))
    await sender.has_sent.wait()
    await asyncio.sleep(0)
    assert await store.jobs("t", None, 10) == ([], False)
    assert await store.job_of_key("t", "k") is None
    assert await claimed(store) == []
    sender.goes_on.set()
    job = await creating
    assert job.counts.total == 6
    assert await store.job_of_key("t", "k") == job
    assert len(await claimed(store)) == 6


@pytest.mark.parametrize("how", ["refused", "cancelled"])
async def test_what_came_of_a_job_that_did_not_come_whole_is_deleted(store: JobStore, how: str) -> None:
    sender = SlowSender(5)
    creating = asyncio.create_task(store.create_job(new_job("t", "k"), sender.items()))
    await sender.has_sent.wait()
    sender.error = ValueError("it is wrong")
    if how == "refused":
        sender.goes_on.set()
    else:
        creating.cancel()
    with pytest.raises((ValueError, asyncio.CancelledError)):
        await creating
    assert await number_of_rows(store, "items") > 0
    await store.clean()
    assert [await number_of_rows(store, table) for table in ("jobs", "items", "item_bodies")] == [0, 0, 0]
    assert (await store.create_job(new_job("t", "k"), new_items(1))).counts.total == 1


async def test_what_a_killed_scheduler_left_of_a_job_is_deleted_a_day_later(
    store: JobStore, other_store: JobStore, clock: Clock
) -> None:
    sender = SlowSender(5)
    creating = asyncio.create_task(other_store.create_job(new_job(), sender.items()))
    await sender.has_sent.wait()
    await store.clean()
    assert await number_of_rows(store, "items") > 0
    clock.now_s += DAY_S + 1
    await store.clean()
    assert await number_of_rows(store, "jobs") == 0
    creating.cancel()
    await asyncio.wait([creating])


async def test_two_that_send_a_large_job_with_one_key_get_the_same_job(store: JobStore, other_store: JobStore) -> None:
    first, second = await asyncio.gather(
        store.create_job(new_job("t", "k"), new_items(9)), other_store.create_job(new_job("t", "k"), new_items(5))
    )
    assert first.job_id == second.job_id
    await store.clean()
    assert await number_of_rows(store, "jobs") == 1
    assert await number_of_rows(store, "items") == first.counts.total


async def test_chunks_hold_no_more_than_one_item_beyond_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MAX_CHUNK_ITEMS", 100)
    monkeypatch.setattr(chunks, "MAX_CHUNK_BYTES", 10)
    items = [NewItem(str(at), b"x" * 4) for at in range(8)]
    assert [len(chunk) async for chunk in chunks_of(each(items))] == [3, 3, 2]


async def test_a_large_job_is_never_in_memory_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MAX_CHUNK_ITEMS", 500)
    store = JobStore.in_directory(tmp_path)
    await store.open()
    item_bytes, num_items = 1 << 17, 240
    tracemalloc.start()
    try:
        items = (NewItem(str(at), bytes(item_bytes)) for at in range(num_items))
        job = await store.create_job(new_job(), each(items))
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert job.counts.total == num_items
    assert most_bytes < 8 * chunks.MAX_CHUNK_BYTES < item_bytes * num_items / 3
    await store.close()
