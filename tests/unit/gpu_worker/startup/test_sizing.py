"""The cache takes what it is told to, or a share of what is free, and never more than that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qllm.settings import SettingRefused

from gpu_worker.memory_size import MemorySize
from gpu_worker.startup.sizing import MOST_SEQUENCES, Kept, Limits, Room, blocks_in, blocks_of, fit, fit_states

GIB = 1 << 30
MANY = 1 << 60
KEPT = st.builds(Kept, st.integers(1, 5000), st.integers(0, 500), st.integers(0, 20_000))


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


def test_what_was_asked_for_has_to_fit_beside_what_is_offloaded() -> None:
    room = Room(8 * GIB, is_host=True, offloaded_bytes=5 * GIB)
    assert room.cache_bytes(MemorySize(num_bytes=3 * GIB), MANY) == 3 * GIB
    said = f"--kv-memory: got {4 * GIB} bytes, allowed are the {3 * GIB} that are free, of {8 * GIB}, beside --host-kv"
    for asked in (MemorySize(num_bytes=4 * GIB), MemorySize(share=0.5)):
        with pytest.raises(SettingRefused, match=said):
            room.cache_bytes(asked, MANY)


def test_on_a_small_host_as_much_as_by_default_is_always_allowed() -> None:
    room = Room(GIB, is_host=True, offloaded_bytes=2 * GIB)
    by_default = room.cache_bytes(None, MANY)
    assert by_default == GIB // 4
    assert room.cache_bytes(MemorySize(num_bytes=by_default), MANY) == by_default
    with pytest.raises(SettingRefused, match=f"allowed are the {by_default} that are free"):
        room.cache_bytes(MemorySize(num_bytes=by_default + 1), MANY)


def test_blocks_are_whole() -> None:
    assert [blocks_of(tokens, 16) for tokens in (1, 16, 17)] == [1, 1, 2]
    assert [blocks_in(size, 100) for size in (-1, 99, 100, 250)] == [0, 0, 1, 2]


def test_what_is_given_away_already_is_not_left() -> None:
    room = Room(8 * GIB, is_host=True)
    assert room.left_bytes(None, taken_bytes=4 * GIB) == GIB
    assert room.left_bytes(MemorySize(num_bytes=3 * GIB), taken_bytes=GIB) == 2 * GIB


def test_without_states_all_is_for_blocks_and_no_sequence_is_one_too_many() -> None:
    assert fit(1000, Kept(30, 30), 4096, 16) == Limits(num_blocks=33, num_states=0)


def test_a_state_and_what_grows_count_twice_and_each_sequence_with_a_state_finds_blocks_for_its_text() -> None:
    # Texts of 32 tokens: 2 blocks of 20, 240 bytes each.
    kept = Kept(row_bytes=10, away_row_bytes=10, grown_bytes=5, state_bytes=100)
    assert fit(1000, kept, 32, 16) == Limits(num_blocks=(1000 - 4 * 200) // 20, num_states=4)


@given(st.integers(1, 1 << 24), KEPT, st.integers(2, 4096))
def test_blocks_and_states_go_into_the_cache_and_no_more_blocks_would(size: int, kept: Kept, length: int) -> None:
    usual = blocks_of(min(length, 1024), 16)
    if size < kept.most_sequence_bytes(1):
        with pytest.raises(SettingRefused, match="--kv-memory"):
            fit(size, kept, length, 16)
        return
    limits = fit(size, kept, length, 16)
    left = size - limits.num_states * kept.most_state_bytes - limits.num_blocks * kept.most_block_bytes
    assert 0 <= left < kept.most_block_bytes
    assert (limits.num_states > 0) is kept.has_states
    assert limits.num_states <= MOST_SEQUENCES
    if limits.num_states > 1:
        assert limits.num_blocks >= limits.num_states * usual


def test_beside_a_given_number_of_blocks_states_take_what_is_left_and_one_is_always_allowed() -> None:
    kept = Kept(10, 10, state_bytes=100)
    assert [fit_states(8, left, kept).num_states for left in (0, 199, 400, 1 << 30)] == [1, 1, 2, 8]
    assert fit_states(1000, 1 << 30, kept) == Limits(1000, MOST_SEQUENCES)
    assert fit_states(8, 0, Kept(10, 10)) == Limits(8, 0)
