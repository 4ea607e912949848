"""Rows are found again where they were put, moved without loss, and blocks belong to one sequence each."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpu_worker.cache.block_table import BlockTable
from gpu_worker.cache.unified import UnifiedDynamicCache
from gpu_worker.contract.ledger import BlockLedger
from gpu_worker.errors import CommandRefused


def _cache(num_host_blocks: int = 8) -> UnifiedDynamicCache:
    return UnifiedDynamicCache(BlockLedger(8, block_size=4, num_host_blocks=num_host_blocks), torch.device("cpu"))


def _filled(cache: UnifiedDynamicCache, seq_id: int, block_ids: list[int], num_rows: int) -> BlockTable:
    """A table of a sequence whose rows, in layers 0 and 1, are told apart by their values."""
    table = cache.new_table(seq_id)
    cache.extend(table, block_ids)
    for layer in (0, 1):
        k, v = _rows(seq_id, layer, num_rows)
        cache.write(layer, table.slots(0, num_rows), k, v)
    table.num_cached = table.num_reserved = num_rows
    return table


def _rows(seq_id: int, layer: int, num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """K (2, rows, 3) and V (1, rows, 5): heads and widths may differ."""
    k = torch.arange(2 * num_rows * 3.0).view(2, num_rows, 3) + 1000 * seq_id + 100_000 * layer
    v = torch.arange(num_rows * 5.0).view(1, num_rows, 5) - 1000 * seq_id - 100_000 * layer
    return k, v


def _holds(cache: UnifiedDynamicCache, table: BlockTable, start: int = 0) -> bool:
    """Whether the rows from start on are what _filled wrote."""
    for layer in (0, 1):
        for rows, expected in zip(
            cache.read(layer, table, start, table.num_cached),
            _rows(table.seq_id, layer, table.num_cached),
            strict=True,
        ):
            if not torch.equal(rows, expected[:, start:]):
                return False
    return True


@pytest.mark.parametrize("block_ids", [[2, 3, 4], [7, 0, 3], [4, 3, 2]])
def test_rows_are_read_back_from_blocks_in_any_order(block_ids: list[int]) -> None:
    cache = _cache()
    table = _filled(cache, 1, block_ids, 10)
    assert _holds(cache, table)
    assert _holds(cache, table, start=3)


def test_consecutive_blocks_are_read_without_a_copy_and_others_gathered() -> None:
    cache = _cache()
    together, apart = _filled(cache, 1, [2, 3, 4], 10), _filled(cache, 2, [7, 0], 6)
    first, second = cache.read(0, together, 0, 10)[0], cache.read(0, together, 1, 10)[0]
    assert second.data_ptr() == first[:, 1:].data_ptr()
    assert cache.read(0, apart, 0, 6)[0].data_ptr() != cache.read(0, apart, 0, 6)[0].data_ptr()


@pytest.mark.parametrize("block_ids", [[2, 3, 4], [7, 0, 3], [4, 5, 1]])
@pytest.mark.parametrize("start", [0, 3, 4, 9])
def test_a_few_runs_of_blocks_are_read_as_views_that_lie_end_to_end(block_ids: list[int], start: int) -> None:
    cache = _cache()
    table = _filled(cache, 1, block_ids, 10)
    runs = cache.read_runs(0, table, start, 10)
    for ours, expected in zip(zip(*runs, strict=True), _rows(1, 0, 10), strict=True):
        assert torch.equal(torch.cat(ours, dim=1), expected[:, start:])
    storage = {store.untyped_storage().data_ptr() for store in cache.read(0, _filled(cache, 2, [6], 4), 0, 4)}
    assert {piece.untyped_storage().data_ptr() for run in runs for piece in run} <= storage


def test_rows_in_many_runs_are_gathered_into_one() -> None:
    cache = _cache()
    table = _filled(cache, 1, [7, 5, 3, 1, 0], 20)
    assert [k.shape[1] for k, _ in cache.read_runs(0, table, 0, 20)] == [20]
    assert [k.shape[1] for k, _ in cache.read_runs(0, table, 6, 20)] == [2, 4, 4, 4]  # what is not read is no run


@given(st.permutations(range(9)), st.integers(0, 36), st.integers(0, 36))
def test_runs_are_the_slots_of_the_rows_and_never_follow_each_other(block_ids: list[int], one: int, other: int) -> None:
    start, stop = sorted((one, other))
    table = BlockTable(1, 4, torch.device("cpu"))
    table.place(block_ids)
    runs = table.runs(start, stop)
    assert [slot for run in runs for slot in run] == table.slots(start, stop).tolist()
    assert all(run.stop != following.start for run, following in pairwise(runs))


def test_a_layer_takes_memory_at_its_first_rows_only() -> None:
    cache = _cache()
    assert cache.device_bytes == 0
    _filled(cache, 1, [0], 1)
    assert cache.block_bytes == 2 * 4 * (2 * 3 + 1 * 5) * 4
    assert cache.device_bytes == 9 * cache.block_bytes  # the scratch block is one more


def test_offload_and_restore_into_other_blocks_lose_nothing() -> None:
    cache = _cache()
    moved, other = _filled(cache, 1, [2, 3, 4], 10), _filled(cache, 2, [0, 7], 7)
    cache.offload(moved)
    assert moved.block_ids == []
    assert cache.blocks.num_free_blocks == 6
    assert cache.blocks.num_free_host_blocks == 5
    taker = _filled(cache, 3, [2, 3, 4], 12)
    cache.restore(moved, [6, 1, 5])
    assert all(_holds(cache, table) for table in (moved, other, taker))
    assert cache.blocks.num_free_host_blocks == 8
    cache.check_integrity()


def test_a_sequence_without_blocks_can_be_offloaded_and_restored() -> None:
    cache = _cache(num_host_blocks=0)
    _filled(cache, 1, [0], 1)
    empty = cache.new_table(2)
    cache.offload(empty)
    cache.restore(empty, [])


def test_host_memory_has_a_limit() -> None:
    cache = _cache(num_host_blocks=4)
    big, small = _filled(cache, 1, [0, 1, 2], 9), _filled(cache, 2, [3, 4], 8)
    cache.offload(big)
    with pytest.raises(CommandRefused, match="holds 2 blocks, host memory has room for 1 of 4"):
        cache.offload(small)
    cache.forget(big)
    cache.offload(small)


def test_moving_a_table_tells_whoever_worked_out_its_slots() -> None:
    cache = _cache()
    table = _filled(cache, 1, [0], 3)
    seen = {table.generation}
    cache.extend(table, [5])
    seen.add(table.generation)
    cache.offload(table)
    cache.restore(table, [1, 2])
    seen.add(table.generation)
    assert len(seen) == 3
    assert table.slots(0, 8).tolist() == [4, 5, 6, 7, 8, 9, 10, 11]


def test_integrity_is_more_than_a_word() -> None:
    cache = _cache()
    table = _filled(cache, 1, [0, 1], 5)
    cache.check_integrity()
    table.block_ids.append(2)
    with pytest.raises(AssertionError):
        cache.check_integrity()
