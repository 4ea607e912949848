"""Owns the ids of the worker's cache blocks: which are free, and which are handed out.

Knows nothing of sequences or bytes. Ids are handed out so that a table tends to stay one consecutive run, which the
worker reads without gathering: a new table starts in the middle of the largest free run, so that both it and the table
before it have room to grow in place.

    free run:    ........................      start of the pool: the first table starts at its edge
    first table: AAA.....................
    second:      AAA........BBB..........      each can grow into the dots behind it
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from scheduler_svc.core.state.ids import BlockId


class IntegrityError(AssertionError):
    """The pool or a table contradicts itself: a defect of the core, never of a request."""


class BlockPool:
    """The ids 0 .. num_blocks - 1, free or held."""

    def __init__(self, num_blocks: int) -> None:
        self._num_blocks = num_blocks
        self._is_free = bytearray(b"\x01" * num_blocks)
        self._starts: list[int] = [0] if num_blocks else []  # starts of the free runs, ascending
        self._lengths: dict[int, int] = {0: num_blocks} if num_blocks else {}  # start -> length
        self._num_free = num_blocks

    @property
    def num_blocks(self) -> int:
        """All blocks."""
        return self._num_blocks

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds."""
        return self._num_free

    def allocate(self, num_wanted: int, after: BlockId | None = None) -> list[BlockId]:
        """Hands out blocks, growing the table that ends with block `after` in place where that is free.

        Raises:
            IntegrityError: If fewer than `num_wanted` are free; ask `num_free` first.
        """
        if num_wanted > self._num_free:
            raise IntegrityError(f"{num_wanted} blocks wanted, {self._num_free} are free")
        taken: list[int] = []
        if after is not None and after + 1 in self._lengths:
            taken += self._take(after + 1, after + 1, num_wanted)
        while len(taken) < num_wanted:
            run = max(self._starts, key=self._lengths.__getitem__)
            missing = num_wanted - len(taken)
            spare = self._lengths[run] - missing
            start = run if run == 0 or spare <= 0 else run + spare // 2
            taken += self._take(run, start, missing)
        return [BlockId(block) for block in taken]

    def free(self, block_ids: Iterable[BlockId]) -> None:
        """Takes blocks back.

        Raises:
            IntegrityError: If one of them is free already or unknown.
        """
        for block in block_ids:
            if not 0 <= block < self._num_blocks or self._is_free[block]:
                raise IntegrityError(f"block {block} is freed twice or unknown")
            self._is_free[block] = 1
            self._num_free += 1
            self._add_run(block, 1)

    def check_integrity(self, tables: Iterable[Iterable[BlockId]] = ()) -> None:
        """Checks that the runs agree with the free blocks, and that `tables` hold exactly the others, each once.

        Raises:
            IntegrityError: Naming what contradicts what.
        """
        in_runs = [block for start in self._starts for block in range(start, start + self._lengths[start])]
        if in_runs != [block for block in range(self._num_blocks) if self._is_free[block]]:
            raise IntegrityError("free runs and free blocks differ")
        if len(in_runs) != self._num_free:
            raise IntegrityError(f"{len(in_runs)} blocks are free, {self._num_free} are counted")
        held = sorted(block for table in tables for block in table)
        if held != [block for block in range(self._num_blocks) if not self._is_free[block]]:
            raise IntegrityError("the tables do not hold exactly the blocks that were handed out")

    def _take(self, run: int, start: int, num_wanted: int) -> range:
        """Cuts up to `num_wanted` blocks out of the free run, from `start` on."""
        end_of_run = run + self._lengths[run]
        stop = min(start + num_wanted, end_of_run)
        self._remove_run(run)
        if start > run:
            self._insert_run(run, start - run)
        if stop < end_of_run:
            self._insert_run(stop, end_of_run - stop)
        self._is_free[start:stop] = bytes(stop - start)
        self._num_free -= stop - start
        return range(start, stop)

    def _add_run(self, start: int, length: int) -> None:
        """Adds a free run, merged with its neighbours."""
        at = bisect_left(self._starts, start)
        if at < len(self._starts) and self._starts[at] == start + length:
            following = self._starts[at]
            length += self._lengths[following]
            self._remove_run(following)
        before = bisect_right(self._starts, start) - 1
        if before >= 0 and self._starts[before] + self._lengths[self._starts[before]] == start:
            self._lengths[self._starts[before]] += length
        else:
            self._insert_run(start, length)

    def _insert_run(self, start: int, length: int) -> None:
        self._starts.insert(bisect_left(self._starts, start), start)
        self._lengths[start] = length

    def _remove_run(self, start: int) -> None:
        del self._starts[bisect_left(self._starts, start)]
        del self._lengths[start]
