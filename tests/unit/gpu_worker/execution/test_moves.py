"""What moving caches took is told with the next result, and one that can't be moved is lost alone."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch

from gpu_worker.cache.compressed import Int8
from gpu_worker.cache.disk_store import DiskStore
from gpu_worker.contract.commands import Tier
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.errors import CacheLost, CommandRefused
from gpu_worker.model.loader import LoadedModel
from tests.support.models.families import generated
from tests.support.worker.worker_driver import Driver, loaded, random_prompts

PROMPTS = random_prompts((9, 14, 6))
MIDDLE = Cursor(1, Stage.EXPERTS, 3)


def test_moves_are_counted_and_timed_in_the_next_result_and_in_no_other() -> None:
    driver = Driver(loaded())
    moved, other = driver.add(PROMPTS[0], 4), driver.add(PROMPTS[1], 4)
    driver.advance(driver.start(moved))
    child = driver.fork(moved, 4)
    driver.offload(child)
    timing = driver.advance(driver.start(other)).timing
    assert (timing.num_offloaded_blocks, timing.num_restored_blocks, timing.restore_ns) == (3, 0, 0)
    assert timing.offload_ns > 0
    driver.restore(child, moved.block_ids[:2])
    timing = driver.advance(driver.start(other)).timing
    assert (timing.num_offloaded_blocks, timing.offload_ns, timing.num_restored_blocks) == (0, 0, 1)
    assert timing.restore_ns > 0
    timing = driver.advance(driver.start(other)).timing
    assert timing.num_offloaded_blocks == timing.offload_ns == timing.num_restored_blocks == timing.restore_ns == 0


def fails(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError(), RuntimeError("no memory")])
@pytest.mark.parametrize("at_restore", [False, True], ids=["offload", "restore"])
def test_a_cache_that_cannot_be_moved_is_lost_with_all_that_it_held_and_its_batch_goes_on(
    monkeypatch: pytest.MonkeyPatch, error: Exception, at_restore: bool
) -> None:
    driver = Driver(loaded())
    expected = generated("mixtral", PROMPTS, 4)
    lost, other = driver.add(PROMPTS[0], 4), driver.add(PROMPTS[1], 4)
    batch_id = driver.start(lost, other)
    driver.advance(batch_id, until=MIDDLE)
    if at_restore:
        driver.offload(lost)
    monkeypatch.setattr(driver.runner.cache._mover._carrier, "bring_back" if at_restore else "take_out", fails(error))
    with pytest.raises(CacheLost, match=f"the cache of sequence {lost.seq_id} is lost") as raised:
        driver.restore(lost) if at_restore else driver.offload(lost)
    assert raised.value.seq_id == lost.seq_id
    monkeypatch.undo()
    driver.forget(lost)
    driver.advance(batch_id)
    again = driver.add(PROMPTS[0], 4)
    driver.finish(other, again)
    assert (again.token_ids, other.token_ids) == expected[:2]
    driver.check_nothing_left()


def test_a_tier_without_room_refuses_and_the_sequence_stays_where_it_is() -> None:
    driver = Driver(loaded())
    story = driver.add(PROMPTS[0], 4)
    driver.advance(driver.start(story))
    with pytest.raises(CommandRefused, match="the disk has room for 0 of 0"):
        driver.runner.offload_sequence(story.seq_id, Tier.DISK)
    driver.finish(story)
    assert story.token_ids == generated("mixtral", PROMPTS, 4)[0]


# Plain K/V, latents, states of a recurrence, an indexer, and layers with a memory of their own.
FAMILIES = ["mixtral", "deepseek_v3", "qwen3_next", "glm_moe_dsa", "deepseek_v4"]


def disk_for(model: LoadedModel, directory: Path, num_blocks: int) -> DiskStore:
    """A disk with room for so many blocks of the model, and not a byte more."""
    probe = Driver(model)
    probe.finish(probe.add(PROMPTS[0], 1))
    return DiskStore(directory, num_blocks, max(1, probe.runner.cache.block_bytes))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tiers", [[Tier.DISK], [Tier.HOST, Tier.DISK]], ids=["at once", "by way of the host"])
def test_a_sequence_on_disk_comes_back_wherever_its_batch_stands_and_changes_no_token(
    family: str, tiers: list[Tier], tmp_path: Path
) -> None:
    disk = disk_for(loaded(family), tmp_path, 8)
    driver = Driver(loaded(family), rng=Random(2), disk=disk)
    story, other = driver.add(PROMPTS[0], 4), driver.add(PROMPTS[1], 4)
    for until in (Cursor(0), MIDDLE, Cursor(2), driver.end):
        batch_id = driver.start(story, other)
        driver.advance(batch_id, until=until)
        for tier in tiers:
            driver.offload(story, tier)
        assert (disk.num_free_slots < disk.num_slots) == (driver.runner.cache.device_bytes > 0)
        driver.restore(story)
        assert disk.num_free_slots == disk.num_slots
        if batch_id in driver.batches:
            driver.advance(batch_id)
    assert (story.token_ids, other.token_ids) == generated(family, PROMPTS, 4)[:2]
    driver.check_nothing_left()


def test_moving_on_to_disk_makes_room_on_the_host_for_the_next(tmp_path: Path) -> None:
    driver = Driver(loaded(), num_host_blocks=3, disk=disk_for(loaded(), tmp_path, 5))
    first, second, third = (driver.add(prompt, 4) for prompt in PROMPTS)
    driver.advance(driver.start(first, second, third))
    driver.offload(first)
    with pytest.raises(CommandRefused, match="host memory has room for 0 of 3"):
        driver.offload(third)
    driver.offload(first, Tier.DISK)
    driver.offload(third)
    with pytest.raises(CommandRefused, match="holds 4 blocks, the disk has room for 2 of 5"):
        driver.offload(second, Tier.DISK)
    driver.restore(first)
    driver.offload(second, Tier.DISK)
    driver.restore(third)
    driver.restore(second)
    driver.finish(first, second, third)
    assert (first.token_ids, second.token_ids, third.token_ids) == generated("mixtral", PROMPTS, 4)
    driver.check_nothing_left()


def test_a_sequence_that_is_dropped_or_lost_on_disk_leaves_its_slots_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = disk_for(loaded(), tmp_path, 8)
    driver = Driver(loaded(), disk=disk)
    stories = [driver.add(prompt, 4) for prompt in PROMPTS]
    driver.advance(driver.start(*stories))
    driver.offload(stories[0], Tier.DISK)
    driver.drop(stories[0])
    driver.offload(stories[1], Tier.DISK)
    monkeypatch.setattr(DiskStore, "read", fails(OSError(5, "Input/output error")))
    with pytest.raises(CacheLost, match="Input/output error"):
        driver.restore(stories[1])
    driver.forget(stories[1])
    monkeypatch.setattr(DiskStore, "write", fails(OSError(28, "No space left on device")))
    with pytest.raises(CacheLost, match="No space left on device"):
        driver.offload(stories[2], Tier.DISK)
    driver.forget(stories[2])
    assert disk.num_free_slots == disk.num_slots
    driver.check_nothing_left()


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_were_offloaded_in_int8_come_back_near_what_they_were_from_either_tier(
    family: str, tmp_path: Path
) -> None:
    model = loaded(family)
    probe = Driver(model, form=Int8(4))
    probe.finish(probe.add(PROMPTS[0], 1))
    num_bytes = probe.runner.cache.host_block_bytes
    driver = Driver(model, disk=DiskStore(tmp_path, 3, max(1, num_bytes)), form=Int8(4))
    story = driver.add(PROMPTS[0], 4)
    driver.advance(driver.start(story))
    cache, table = driver.runner.cache, driver.runner._sequences[story.seq_id].table
    for tier in (Tier.HOST, Tier.DISK):
        before = {key: [one.clone() for one in cache.read(key[0], table, 0, 9, key[1])] for key in cache._stores}
        driver.offload(story, tier)
        driver.restore(story)
        for (layer, kind), rows in before.items():
            for one, other in zip(cache.read(layer, table, 0, 9, kind), rows, strict=True):
                assert one.numel() == 0 or (one - other).abs().max() <= other.abs().max() / 253
                assert kind == "kv" or torch.equal(one, other)
    assert num_bytes <= cache.block_bytes * 0.6
    driver.check_nothing_left()
