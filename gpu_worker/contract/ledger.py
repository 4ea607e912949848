"""Owns who holds which cache blocks, on the device and on the host, where there are no bytes to hold.

Refuses what the Unified Dynamic Cache refuses, in the same words. Knows no tokens and no batches.
"""

from collections.abc import Sequence

from gpu_worker.errors import CommandRefused


class BlockLedger:
    """Blocks by sequence.

    Args:
        num_blocks: Blocks on the device, with ids 0 .. num_blocks - 1.
        num_host_blocks: Blocks' worth of host memory.
    """

    def __init__(self, num_blocks: int, num_host_blocks: int) -> None:
        self._num_blocks = num_blocks
        self._num_host_blocks = num_host_blocks
        self._owners: dict[int, int] = {}
        self._tables: dict[int, list[int]] = {}
        self._on_host: dict[int, int] = {}

    @property
    def num_free_blocks(self) -> int:
        """Blocks on the device that belong to nobody."""
        return self._num_blocks - len(self._owners)

    @property
    def num_free_host_blocks(self) -> int:
        """Blocks' worth of host memory that is free."""
        return self._num_host_blocks - sum(self._on_host.values())

    def num_held(self, seq_id: int) -> int:
        """Returns the number of a sequence's blocks on the device."""
        return len(self._tables.get(seq_id, ()))

    def is_offloaded(self, seq_id: int) -> bool:
        """Whether a sequence's cache is in host memory."""
        return seq_id in self._on_host

    def check_free(self, block_ids: Sequence[int]) -> None:
        """Raises CommandRefused unless the blocks exist, are named once and belong to nobody."""
        for block_id in block_ids:
            if not 0 <= block_id < self._num_blocks:
                raise CommandRefused(f"block {block_id} does not exist; blocks are 0 to {self._num_blocks - 1}")
            if block_id in self._owners:
                raise CommandRefused(f"block {block_id} is held by sequence {self._owners[block_id]}")
        if len(set(block_ids)) != len(block_ids):
            raise CommandRefused(f"blocks {list(block_ids)} name a block twice")

    def extend(self, seq_id: int, block_ids: Sequence[int]) -> None:
        """Gives free blocks to a sequence."""
        self._owners.update(dict.fromkeys(block_ids, seq_id))
        self._tables.setdefault(seq_id, []).extend(block_ids)

    def forget(self, seq_id: int) -> None:
        """Frees all that a sequence holds."""
        self._release(seq_id)
        self._on_host.pop(seq_id, None)

    def offload(self, seq_id: int) -> None:
        """Moves a sequence's blocks to the host; raises CommandRefused if it is there already or there is no room."""
        if seq_id in self._on_host:
            raise CommandRefused(f"sequence {seq_id} is offloaded already")
        if self.num_held(seq_id) > self.num_free_host_blocks:
            raise CommandRefused(
                f"sequence {seq_id} holds {self.num_held(seq_id)} blocks, host memory has room for "
                f"{self.num_free_host_blocks} of {self._num_host_blocks}"
            )
        self._on_host[seq_id] = self._release(seq_id)

    def restore(self, seq_id: int, block_ids: Sequence[int]) -> None:
        """Moves a sequence back; raises CommandRefused if it is not away, or these are not free and as many as it had."""
        if seq_id not in self._on_host:
            raise CommandRefused(f"sequence {seq_id} is not offloaded")
        if len(block_ids) != self._on_host[seq_id]:
            raise CommandRefused(
                f"sequence {seq_id} had {self._on_host[seq_id]} blocks, but {len(block_ids)} were given"
            )
        self.check_free(block_ids)
        del self._on_host[seq_id]
        self.extend(seq_id, block_ids)

    def _release(self, seq_id: int) -> int:
        """Takes a sequence's blocks on the device from it; returns how many they were."""
        block_ids = self._tables.pop(seq_id, [])
        for block_id in block_ids:
            del self._owners[block_id]
        return len(block_ids)
