import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_svc.core.cache.block_pool import BlockPool, IntegrityError
from scheduler_svc.core.state.ids import BlockId


def test_a_table_grows_in_place_while_the_next_block_is_free() -> None:
    pool = BlockPool(100)
    table = pool.allocate(3)
    other = pool.allocate(3)
    for _ in range(20):
        table += pool.allocate(1, after=table[-1])
        other += pool.allocate(1, after=other[-1])
    assert table == list(range(table[0], table[0] + 23))
    assert other == list(range(other[0], other[0] + 23))


def test_more_blocks_than_are_free_are_refused_and_nothing_is_taken() -> None:
    pool = BlockPool(4)
    pool.allocate(3)
    with pytest.raises(IntegrityError, match="2 blocks wanted, 1 are free"):
        pool.allocate(2)
    assert pool.num_free == 1


def test_a_block_freed_twice_is_found() -> None:
    pool = BlockPool(4)
    blocks = pool.allocate(2)
    pool.free(blocks)
    with pytest.raises(IntegrityError, match="freed twice"):
        pool.free(blocks[:1])
    with pytest.raises(IntegrityError, match="unknown"):
        pool.free([BlockId(4)])


def test_a_leaked_block_is_found() -> None:
    pool = BlockPool(4)
    pool.allocate(2)
    with pytest.raises(IntegrityError, match="do not hold exactly"):
        pool.check_integrity([])


def test_runs_and_counts_that_disagree_are_found() -> None:
    pool = BlockPool(4)
    pool._num_free = 3
    with pytest.raises(IntegrityError, match="are counted"):
        pool.check_integrity([])
    pool._is_free[0] = 0
    with pytest.raises(IntegrityError, match="free runs"):
        pool.check_integrity([])


def test_an_empty_pool_holds_nothing() -> None:
    pool = BlockPool(0)
    pool.check_integrity()
    assert pool.allocate(0) == []


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9)), max_size=60))
def test_every_history_leaves_each_block_free_or_held_once(num_blocks: int, steps: list[tuple[int, int]]) -> None:
    pool = BlockPool(num_blocks)
    tables: dict[int, list[BlockId]] = {}
    for table_id, wanted in steps:
        table = tables.setdefault(table_id, [])
        if wanted == 0:
            pool.free(table)
            table.clear()
        elif wanted <= pool.num_free:
            table += pool.allocate(wanted, table[-1] if table else None)
        pool.check_integrity(tables.values())
    for table in tables.values():
        pool.free(table)
    pool.check_integrity()
    assert pool.allocate(num_blocks) == [BlockId(i) for i in range(num_blocks)]
