"""What moving caches took is told with the next result, and one that can't be moved is lost alone."""

from collections.abc import Callable

import pytest

from gpu_worker.contract.commands import Tier
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.errors import CacheLost, CommandRefused
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
    monkeypatch.setattr(driver.runner.cache._carrier, "bring_back" if at_restore else "take_out", fails(error))
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
