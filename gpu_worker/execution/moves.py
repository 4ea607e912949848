"""Moves sequences' caches off the device and back: notes what that took until it is told, and which of them are lost.

    offload, restore ─▶ cache      refused: nothing has changed
                         ╰───────▶ whatever else goes wrong (a full disk, no memory): the cache is lost, and the
                                   sequence can be computed again

It knows no batches: who is in one is the runner's to know.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from gpu_worker.cache.block_table import BlockTable
from gpu_worker.cache.unified import UnifiedDynamicCache
from gpu_worker.contract.commands import Tier
from gpu_worker.contract.results import WorkTiming
from gpu_worker.errors import CacheLost, one_line
from gpu_worker.machine.devices import check_alive


class Moves:
    """What is moved of a cache.

    Args:
        cache: The cache.
    """

    def __init__(self, cache: UnifiedDynamicCache) -> None:
        self._cache = cache
        self._untold = WorkTiming()

    def offload(self, table: BlockTable, tier: Tier) -> None:
        """Moves a sequence off the device, or from the host to disk.

        Raises:
            CommandRefused: As the cache does; nothing has changed.
            CacheLost: It can't be moved; the sequence is to be forgotten.
        """
        num_blocks = self._cache.blocks.num_blocks_of(table.seq_id)
        began_ns = time.perf_counter_ns()
        with _lost(table.seq_id, self._cache):
            self._cache.offload(table, tier)
        self._untold.offload_ns += time.perf_counter_ns() - began_ns
        self._untold.num_offloaded_blocks += num_blocks

    def restore(self, table: BlockTable, block_ids: Sequence[int], num_shared_blocks: int) -> None:
        """Moves a sequence back to the device; raises as `offload` does."""
        began_ns = time.perf_counter_ns()
        with _lost(table.seq_id, self._cache):
            self._cache.restore(table, block_ids, num_shared_blocks)
        self._untold.restore_ns += time.perf_counter_ns() - began_ns
        self._untold.num_restored_blocks += len(block_ids) - num_shared_blocks

    def tell(self, timing: WorkTiming) -> None:
        """Adds what was moved since it was told last."""
        if self._untold.has_moves:
            timing.add(self._untold)
            self._untold = WorkTiming()


@contextmanager
def _lost(seq_id: int, cache: UnifiedDynamicCache) -> Iterator[None]:
    """Says of what goes wrong that the cache is lost, unless the device is."""
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        check_alive(cache.device, error)
        raise CacheLost(seq_id, f"the cache of sequence {seq_id} is lost: {one_line(error)}") from error
