"""Owns who holds which cache blocks, on the device and off it; ids come from the scheduler.

    block 5   held by 1, 2 and 3    rows of a beginning that they share: nobody writes to it
    block 8   held by 2             its owner may write to it
    block 9   held by nobody        free; what rows it still has, the scheduler may know

It knows no bytes, no tokens and no batches: the Unified Dynamic Cache keeps the bytes of a real worker's blocks, and
a simulated worker's have none.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import chain, islice

from gpu_worker.contract.commands import Tier
from gpu_worker.errors import CommandRefused

_NAMES = {Tier.HOST: "host memory", Tier.DISK: "the disk"}


class BlockLedger:
    """Blocks by sequence.

    Args:
        num_blocks: Blocks on the device, with ids 0 .. num_blocks - 1.
        block_size: Tokens in one block.
        num_host_blocks: Blocks' worth of host memory.
        num_disk_blocks: Blocks' worth of disk.
    """

    def __init__(self, num_blocks: int, block_size: int, num_host_blocks: int, num_disk_blocks: int = 0) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.num_host_blocks = num_host_blocks
        self.num_disk_blocks = num_disk_blocks
        self._rooms = {Tier.HOST: num_host_blocks, Tier.DISK: num_disk_blocks}
        self._tables: dict[int, list[int]] = {}
        self._num_holders: dict[int, int] = {}  # of the blocks that anybody holds
        self._away: dict[
            int, tuple[Tier, int]
        ] = {}  # where offloaded sequences lie, and the blocks that each fills there
        self._filled: Counter[Tier] = Counter()

    # ---- what is held

    @property
    def num_free_blocks(self) -> int:
        """Blocks on the device that nobody holds."""
        return self.num_blocks - len(self._num_holders)

    def free_blocks(self, most: int) -> list[int]:
        """Blocks on the device that nobody holds, at most so many."""
        free = (block_id for block_id in range(self.num_blocks) if block_id not in self._num_holders)
        return list(islice(free, most))

    @property
    def num_free_host_blocks(self) -> int:
        """Blocks' worth of host memory that is free."""
        return self._num_free(Tier.HOST)

    @property
    def num_free_disk_blocks(self) -> int:
        """Blocks' worth of disk that is free."""
        return self._num_free(Tier.DISK)

    @property
    def offloaded_seq_ids(self) -> Collection[int]:
        """Sequences whose caches are off the device."""
        return self._away.keys()

    def tier_of(self, seq_id: int) -> Tier | None:
        """Where a sequence's cache lies; None: on the device, or it has none."""
        tier, _ = self._away.get(seq_id, (None, 0))
        return tier

    def num_blocks_of(self, seq_id: int) -> int:
        """How many blocks a sequence fills, wherever they lie."""
        _, num_blocks = self._away.get(seq_id, (None, len(self.held_by(seq_id))))
        return num_blocks

    def held_by(self, seq_id: int) -> Sequence[int]:
        """A sequence's blocks on the device, in order; none while it is offloaded."""
        return self._tables.get(seq_id, ())

    def num_holders(self, block_id: int) -> int:
        """How many sequences hold a block."""
        return self._num_holders.get(block_id, 0)

    # ---- on the device

    def check_free(self, block_ids: Sequence[int]) -> None:
        """Raises CommandRefused unless the blocks exist, are named once and nobody holds them."""
        self._check_exist(block_ids)
        for block_id in block_ids:
            if block_id in self._num_holders:
                raise CommandRefused(f"block {block_id} is held by sequence {self._a_holder(block_id)}")
        _check_once(block_ids)

    def check_shared(self, block_ids: Sequence[int]) -> None:
        """Raises CommandRefused unless the blocks exist and are named once; whoever may hold them."""
        self._check_exist(block_ids)
        _check_once(block_ids)

    def extend(self, seq_id: int, block_ids: Sequence[int]) -> None:
        """Gives blocks, which must be free, to a sequence, after those that it holds."""
        self._hold(seq_id, block_ids)

    def share(self, seq_id: int, block_ids: Sequence[int]) -> None:
        """Has a sequence that holds nothing hold blocks besides others; raises as `check_shared` does."""
        self.check_shared(block_ids)
        self._hold(seq_id, block_ids)

    def forget(self, seq_id: int) -> None:
        """Gives up all that a sequence holds, on the device and off it."""
        self._release(seq_id)
        self._come_back(seq_id)

    # ---- off the device

    def check_offload(self, seq_id: int, tier: Tier = Tier.HOST) -> None:
        """Raises CommandRefused if a sequence is there already or can't go there, or there is no room for it."""
        is_on, num_blocks = self._away.get(seq_id, (None, len(self.held_by(seq_id))))
        if is_on is not None and (is_on, tier) != (Tier.HOST, Tier.DISK):
            raise CommandRefused(f"sequence {seq_id} is offloaded already")
        if num_blocks > self._num_free(tier):
            raise CommandRefused(
                f"sequence {seq_id} holds {num_blocks} blocks, {_NAMES[tier]} has room for "
                f"{self._num_free(tier)} of {self._rooms[tier]}"
            )

    def offload(self, seq_id: int, tier: Tier = Tier.HOST) -> None:
        """Moves a sequence off the device, or from the host to disk; raises as `check_offload` does."""
        self.check_offload(seq_id, tier)
        is_away = seq_id in self._away
        num_blocks = self._come_back(seq_id) if is_away else self._release(seq_id)
        self._away[seq_id] = (tier, num_blocks)
        self._filled[tier] += num_blocks

    def check_restore(self, seq_id: int, block_ids: Sequence[int], num_shared_blocks: int = 0) -> None:
        """Raises CommandRefused unless a sequence is away, and these are as many as it had, all but the shared free."""
        if seq_id not in self._away:
            raise CommandRefused(f"sequence {seq_id} is not offloaded")
        _, num_blocks = self._away[seq_id]
        if len(block_ids) != num_blocks:
            raise CommandRefused(f"sequence {seq_id} had {num_blocks} blocks, but {len(block_ids)} were given")
        if not 0 <= num_shared_blocks <= num_blocks:
            raise CommandRefused(
                f"sequence {seq_id} would share {num_shared_blocks} blocks, allowed are 0 to {num_blocks}"
            )
        self.check_shared(block_ids)
        self.check_free(block_ids[num_shared_blocks:])

    def restore(self, seq_id: int, block_ids: Sequence[int], num_shared_blocks: int = 0) -> None:
        """Moves a sequence back; raises as `check_restore` does."""
        self.check_restore(seq_id, block_ids, num_shared_blocks)
        self._come_back(seq_id)
        self._hold(seq_id, block_ids)

    # ---- books

    def check_integrity(self) -> None:
        """Raises AssertionError unless holders and offloaded blocks are counted right, and each block at most once."""
        counted = Counter(chain.from_iterable(self._tables.values()))
        if counted != Counter(self._num_holders):
            raise AssertionError(f"tables hold {dict(counted)}, but the holders are counted {self._num_holders}")
        if any(len(set(block_ids)) != len(block_ids) for block_ids in self._tables.values()):
            raise AssertionError(f"a sequence holds a block twice: {self._tables}")
        if both := [seq_id for seq_id in self._away if self._tables.get(seq_id)]:
            raise AssertionError(f"sequences {both} are offloaded, and hold blocks on the device")
        for tier, room in self._rooms.items():
            filled = sum(num_blocks for is_on, num_blocks in self._away.values() if is_on is tier)
            if filled != self._filled[tier] or filled > room:
                raise AssertionError(
                    f"{_NAMES[tier]}: {filled} of {room} blocks are filled, {self._filled[tier]} counted"
                )

    def _hold(self, seq_id: int, block_ids: Sequence[int]) -> None:
        for block_id in block_ids:
            self._num_holders[block_id] = self._num_holders.get(block_id, 0) + 1
        self._tables.setdefault(seq_id, []).extend(block_ids)

    def _release(self, seq_id: int) -> int:
        """Gives up a sequence's hold on its blocks on the device; returns how many they were."""
        block_ids = self._tables.pop(seq_id, [])
        for block_id in block_ids:
            self._num_holders[block_id] -= 1
            if not self._num_holders[block_id]:
                del self._num_holders[block_id]
        return len(block_ids)

    def _come_back(self, seq_id: int) -> int:
        """Empties the room that a sequence fills off the device; returns how many blocks that was."""
        tier, num_blocks = self._away.pop(seq_id, (Tier.HOST, 0))
        self._filled[tier] -= num_blocks
        return num_blocks

    def _num_free(self, tier: Tier) -> int:
        return self._rooms[tier] - self._filled[tier]

    def _check_exist(self, block_ids: Sequence[int]) -> None:
        for block_id in block_ids:
            if not 0 <= block_id < self.num_blocks:
                raise CommandRefused(f"block {block_id} does not exist; blocks are 0 to {self.num_blocks - 1}")

    def _a_holder(self, block_id: int) -> int:
        return next(seq_id for seq_id, block_ids in self._tables.items() if block_id in block_ids)


def _check_once(block_ids: Sequence[int]) -> None:
    if len(set(block_ids)) != len(block_ids):
        raise CommandRefused(f"blocks {list(block_ids)} name a block twice")
