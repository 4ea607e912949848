"""Owns who holds which cache blocks, on the device and on the host; ids come from the scheduler.

It knows no bytes, no tokens and no batches: the Unified Dynamic Cache keeps the bytes of a real worker's blocks, and
a simulated worker's have none.
"""

from collections.abc import Collection, Sequence
from itertools import islice

from gpu_worker.errors import CommandRefused


class BlockLedger:
    """Blocks by sequence.

    Args:
        num_blocks: Blocks on the device, with ids 0 .. num_blocks - 1.
        block_size: Tokens in one block.
        num_host_blocks: Blocks' worth of host memory.
    """

    def __init__(self, num_blocks: int, block_size: int, num_host_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.num_host_blocks = num_host_blocks
        self._owners: dict[int, int] = {}
        self._tables: dict[int, list[int]] = {}
        self._on_host: dict[int, int] = {}  # how many blocks each offloaded sequence needs to come back

    @property
    def num_free_blocks(self) -> int:
        """Blocks on the device that belong to nobody."""
        return self.num_blocks - len(self._owners)

    def free_blocks(self, most: int) -> list[int]:
        """Blocks on the device that belong to nobody, at most so many."""
        return list(islice((block_id for block_id in range(self.num_blocks) if block_id not in self._owners), most))

    @property
    def num_free_host_blocks(self) -> int:
        """Blocks' worth of host memory that is free."""
        return self.num_host_blocks - sum(self._on_host.values())

    @property
    def offloaded_seq_ids(self) -> Collection[int]:
        """Sequences whose caches are in host memory."""
        return self._on_host.keys()

    def held_by(self, seq_id: int) -> Sequence[int]:
        """A sequence's blocks on the device, in order; none while it is offloaded."""
        return self._tables.get(seq_id, ())

    def check_free(self, block_ids: Sequence[int]) -> None:
        """Raises CommandRefused unless the blocks exist, are named once and belong to nobody."""
        for block_id in block_ids:
            if not 0 <= block_id < self.num_blocks:
                raise CommandRefused(f"block {block_id} does not exist; blocks are 0 to {self.num_blocks - 1}")
            if block_id in self._owners:
                raise CommandRefused(f"block {block_id} is held by sequence {self._owners[block_id]}")
        if len(set(block_ids)) != len(block_ids):
            raise CommandRefused(f"blocks {list(block_ids)} name a block twice")

    def extend(self, seq_id: int, block_ids: Sequence[int]) -> None:
        """Gives blocks, which must be free, to a sequence, after those that it holds."""
        self._owners.update(dict.fromkeys(block_ids, seq_id))
        self._tables.setdefault(seq_id, []).extend(block_ids)

    def forget(self, seq_id: int) -> None:
        """Frees all that a sequence holds, on the device and on the host."""
        self._release(seq_id)
        self._on_host.pop(seq_id, None)

    def check_offload(self, seq_id: int) -> None:
        """Raises CommandRefused if a sequence is offloaded already, or host memory has no room for it."""
        if seq_id in self._on_host:
            raise CommandRefused(f"sequence {seq_id} is offloaded already")
        num_held = len(self.held_by(seq_id))
        if num_held > self.num_free_host_blocks:
            raise CommandRefused(
                f"sequence {seq_id} holds {num_held} blocks, host memory has room for "
                f"{self.num_free_host_blocks} of {self.num_host_blocks}"
            )

    def offload(self, seq_id: int) -> None:
        """Moves a sequence's blocks to the host; raises as `check_offload` does."""
        self.check_offload(seq_id)
        self._on_host[seq_id] = self._release(seq_id)

    def restore(self, seq_id: int, block_ids: Sequence[int]) -> None:
        """Moves a sequence back; raises CommandRefused unless it is away, and these are free and as many as it had."""
        if seq_id not in self._on_host:
            raise CommandRefused(f"sequence {seq_id} is not offloaded")
        if len(block_ids) != self._on_host[seq_id]:
            raise CommandRefused(
                f"sequence {seq_id} had {self._on_host[seq_id]} blocks, but {len(block_ids)} were given"
            )
        self.check_free(block_ids)
        del self._on_host[seq_id]
        self.extend(seq_id, block_ids)

    def check_integrity(self) -> None:
        """Raises AssertionError unless each held block is in exactly the table of its owner."""
        held = {block_id: seq_id for seq_id, block_ids in self._tables.items() for block_id in block_ids}
        if held != self._owners or len(held) != sum(map(len, self._tables.values())):
            raise AssertionError(f"tables hold {held}, but the owners are {self._owners}")

    def _release(self, seq_id: int) -> int:
        """Takes a sequence's blocks on the device from it; returns how many they were."""
        block_ids = self._tables.pop(seq_id, [])
        for block_id in block_ids:
            del self._owners[block_id]
        return len(block_ids)
