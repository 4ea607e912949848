"""Owns the ids of the worker's cache blocks: who holds one is counted, and what nobody holds may still be remembered.

    allocate ─▶ held by one ─ share ─▶ held by several ─ release ─▶ held by nobody: free
                                                                     │ what it holds is known by its tokens
                                                                     ╰─▶ kept, until it is shared again, or is
                                                                         the longest unused when blocks run out

Knows nothing of sequences, tokens or bytes.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence

from scheduler_svc.core.cache.free_runs import FreeRuns
from scheduler_svc.core.state.ids import BlockId

# Of all blocks: so many are given away at once, so that those that were one table become one run again.
_SHARE_GIVEN_AWAY = 1 / 64


class IntegrityError(AssertionError):
    """The pool or a table contradicts itself: a defect of the core, never of a request."""


class BlockPool:
    """The ids 0 .. num_blocks - 1.

    Args:
        num_blocks: All blocks.
        on_evicted: Called with each block that was remembered and is given away.
    """

    def __init__(self, num_blocks: int, on_evicted: Callable[[BlockId], object] = lambda block: None) -> None:
        self.num_blocks = num_blocks
        self._on_evicted = on_evicted
        self._runs = FreeRuns(num_blocks)
        self._num_holders = [0] * num_blocks
        self._is_remembered = bytearray(num_blocks)
        self._kept: OrderedDict[BlockId, None] = OrderedDict()  # longest unused first

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds, those that are kept among them."""
        return self._runs.num_free + len(self._kept)

    @property
    def num_kept(self) -> int:
        """Blocks that nobody holds and that are remembered."""
        return len(self._kept)

    @property
    def num_held(self) -> int:
        """Blocks that anybody holds, each counted once."""
        return self.num_blocks - self.num_free

    @property
    def fragmentation(self) -> float:
        """Share of the blocks that hold nothing outside of the longest run of them, in [0, 1]."""
        return 1 - self._runs.longest / self._runs.num_free if self._runs.num_free else 0.0

    def num_holders(self, block: BlockId) -> int:
        """Counts who holds a block."""
        return self._num_holders[block]

    def num_unheld(self, block_ids: Iterable[BlockId]) -> int:
        """Counts those of some blocks that nobody holds: what sharing them takes of the free ones."""
        return sum(not self._num_holders[block] for block in block_ids)

    def allocate(self, num_wanted: int, after: BlockId | None = None) -> list[BlockId]:
        """Hands out blocks, growing the table that ends with block `after` in place where that is free.

        Raises:
            IntegrityError: If fewer than `num_wanted` are free, or it is negative; ask `num_free` first.
        """
        if not 0 <= num_wanted <= self.num_free:
            raise IntegrityError(f"{num_wanted} blocks wanted, {self.num_free} are free")
        if (shortfall := num_wanted - self._runs.num_free) > 0:
            self._evict(max(shortfall, int(self.num_blocks * _SHARE_GIVEN_AWAY)))
        taken = [BlockId(block) for block in self._runs.take(num_wanted, after)]
        for block in taken:
            self._num_holders[block] = 1
        return taken

    def share(self, block_ids: Iterable[BlockId]) -> None:
        """Hands out blocks once more that are held, or kept.

        Raises:
            IntegrityError: If one of them holds nothing.
        """
        for block in block_ids:
            if not self._num_holders[block]:
                if block not in self._kept:
                    raise IntegrityError(f"block {block} is shared, but holds nothing")
                del self._kept[block]
            self._num_holders[block] += 1

    def release(self, block_ids: Sequence[BlockId]) -> None:
        """Takes back what one table held.

        Raises:
            IntegrityError: If one of them is held by nobody, or unknown.
        """
        for block in reversed(block_ids):  # a table's end is given away before what leads up to it
            if not 0 <= block < self.num_blocks or not self._num_holders[block]:
                raise IntegrityError(f"block {block} is released, but nobody holds it")
            self._num_holders[block] -= 1
            if not self._num_holders[block]:
                if self._is_remembered[block]:
                    self._kept[block] = None
                else:
                    self._runs.add(block)

    def remember(self, block: BlockId) -> None:
        """Has a block kept that is held now, once nobody holds it any more."""
        self._is_remembered[block] = 1

    def disremember(self, block: BlockId) -> None:
        """Has a block kept no longer."""
        self._is_remembered[block] = 0
        if block in self._kept:
            del self._kept[block]
            self._runs.add(block)

    def check_integrity(self, tables: Iterable[Iterable[BlockId]] = ()) -> None:
        """Checks that each block is free, kept or held, by as many of `tables` as are counted.

        Raises:
            IntegrityError: Naming what contradicts what.
        """
        found: Counter[int] = Counter(block for table in tables for block in table)
        counted = {block: num for block, num in enumerate(self._num_holders) if num}
        if found != counted:
            wrong = next(block for block in sorted({*found, *counted}) if found[block] != counted.get(block, 0))
            raise IntegrityError(f"block {wrong} is in {found[wrong]} tables, {counted.get(wrong, 0)} are counted")
        unheld = sorted([*self._runs.ids(), *self._kept])
        if unheld != [block for block in range(self.num_blocks) if not self._num_holders[block]]:
            raise IntegrityError("the free and the kept blocks are not exactly those that nobody holds")
        if any(not self._is_remembered[block] for block in self._kept):
            raise IntegrityError("a block is kept that nobody remembers")
        if any(self._is_remembered[block] for block in self._runs.ids()):
            raise IntegrityError("a block is free that is remembered")

    def _evict(self, num_wanted: int) -> None:
        """Gives away the blocks that were unused for longest, as far as there are any."""
        for _ in range(min(num_wanted, len(self._kept))):
            block, _ = self._kept.popitem(last=False)
            self._is_remembered[block] = 0
            self._runs.add(block)
            self._on_evicted(block)
