from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

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


def test_a_block_that_nobody_holds_is_neither_released_nor_shared() -> None:
    pool = BlockPool(4)
    blocks = pool.allocate(2)
    pool.release(blocks)
    with pytest.raises(IntegrityError, match="nobody holds it"):
        pool.release(blocks[:1])
    with pytest.raises(IntegrityError, match="nobody holds it"):
        pool.release([BlockId(4)])
    with pytest.raises(IntegrityError, match="holds nothing"):
        pool.share(blocks)


def test_a_leaked_block_is_found() -> None:
    pool = BlockPool(4)
    pool.allocate(2)
    with pytest.raises(IntegrityError, match="block 0 is in 0 tables, 1 are counted"):
        pool.check_integrity([])


def test_a_block_in_a_table_more_than_is_counted_is_found() -> None:
    pool = BlockPool(4)
    table = pool.allocate(1)
    with pytest.raises(IntegrityError, match="block 0 is in 2 tables, 1 are counted"):
        pool.check_integrity([table, table])


def test_what_is_kept_is_given_away_longest_unused_first_and_a_table_from_its_end() -> None:
    evicted: list[BlockId] = []
    pool = BlockPool(8, evicted.append)
    older, newer = pool.allocate(4), pool.allocate(4)
    for block in older + newer:
        pool.remember(block)
    pool.release(older)
    pool.release(newer)
    assert pool.num_free == pool.num_kept == 8
    pool.allocate(2)
    assert evicted == [older[3], older[2]]
    pool.share(older[:1])  # used again: now it is held
    pool.allocate(5)
    assert evicted == [older[3], older[2], older[1], *reversed(newer)]
    assert pool.num_free == 0


def test_blocks_that_were_one_table_come_free_as_one_run() -> None:
    pool = BlockPool(256)
    tables = [pool.allocate(64) for _ in range(4)]
    for table in tables:
        for block in table:
            pool.remember(block)
        pool.release(table)
    taken = pool.allocate(1)
    taken += pool.allocate(1, after=taken[-1])
    taken += pool.allocate(1, after=taken[-1])
    assert taken == list(range(taken[0], taken[0] + 3))


def test_an_empty_pool_holds_nothing() -> None:
    pool = BlockPool(0)
    pool.check_integrity()
    assert pool.allocate(0) == []
    assert pool.fragmentation == 0


class Pool(RuleBasedStateMachine):
    """Whatever is taken, shared, remembered and released, each block is where the books say, and counted as often."""

    tables = Bundle("tables")

    @initialize(num_blocks=st.integers(1, 40))
    def start(self, num_blocks: int) -> None:
        self.evicted: set[BlockId] = set()
        self.pool = BlockPool(num_blocks, self.evicted.add)
        self.live: list[list[BlockId]] = []
        self.remembered: set[BlockId] = set()

    @rule(target=tables, num_wanted=st.integers(1, 9))
    def allocate(self, num_wanted: int) -> list[BlockId]:
        table = self.pool.allocate(min(num_wanted, self.pool.num_free))
        return self._lives(table)

    @rule(table=tables, num_wanted=st.integers(1, 3))
    def grow(self, table: list[BlockId], num_wanted: int) -> None:
        added = self.pool.allocate(min(num_wanted, self.pool.num_free), table[-1] if table else None)
        self.remembered -= set(added)
        table += added

    @rule(target=tables, table=tables, num_shared=st.integers(0, 9))
    def share(self, table: list[BlockId], num_shared: int) -> list[BlockId]:
        shared = table[:num_shared]
        self.pool.share(shared)
        return self._lives(shared)

    @rule(table=tables)
    def remember(self, table: list[BlockId]) -> None:
        for block in table:
            self.pool.remember(block)
        self.remembered |= set(table)

    @rule(table=tables)
    def disremember(self, table: list[BlockId]) -> None:
        for block in table:
            self.pool.disremember(block)
        self.remembered -= set(table)

    @rule(table=consumes(tables))
    def release(self, table: list[BlockId]) -> None:
        self.pool.release(table)
        self.live = [other for other in self.live if other is not table]

    @invariant()
    def books_agree(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.pool.check_integrity(self.live)
        self.remembered -= self.evicted
        self.evicted.clear()
        held = Counter(block for table in self.live for block in table)
        assert self.pool.num_held == len(held)
        assert self.pool.num_kept == len(self.remembered - set(held))

    def _lives(self, table: list[BlockId]) -> list[BlockId]:
        table = list(table)
        self.remembered -= set(table) & self.evicted
        self.live.append(table)
        return table


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
