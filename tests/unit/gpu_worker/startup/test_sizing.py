"""The cache takes what it is told to, or a share of what is free, and never more than that."""

import pytest
from qllm.settings import SettingRefused

from gpu_worker.memory_size import MemorySize
from gpu_worker.startup.sizing import Room, blocks_of, fit_blocks

GIB = 1 << 30
MANY = 1 << 60


def test_by_default_a_host_gives_a_quarter_and_a_device_four_fifths_of_what_is_free() -> None:
    assert Room(8 * GIB, is_host=True).cache_bytes(None, MANY) == 2 * GIB
    assert Room(10 * GIB, is_host=False).cache_bytes(None, MANY) == 8 * GIB


def test_by_default_a_host_gives_no_more_than_there_is_a_use_for() -> None:
    assert Room(8 * GIB, is_host=True).cache_bytes(None, 5) == 5
    assert Room(8 * GIB, is_host=True).cache_bytes(MemorySize(num_bytes=GIB), 5) == GIB


@pytest.mark.parametrize("is_host", [True, False])
def test_what_was_asked_for_is_taken_as_far_as_it_is_free(is_host: bool) -> None:
    room = Room(8 * GIB, is_host=is_host)
    assert room.cache_bytes(MemorySize(num_bytes=GIB), MANY) == GIB
    assert room.cache_bytes(MemorySize(share=0.5), MANY) == 4 * GIB
    with pytest.raises(SettingRefused, match=f"--kv-memory: got {9 * GIB} bytes, allowed are the {8 * GIB} that are"):
        room.cache_bytes(MemorySize(num_bytes=9 * GIB), MANY)


def test_blocks_are_whole() -> None:
    assert [blocks_of(tokens, 16) for tokens in (1, 16, 17)] == [1, 1, 2]
    assert [fit_blocks(size, 100) for size in (99, 100, 250)] == [0, 1, 2]
