"""Unified Dynamic Cache: owns the bytes of K and V, in blocks, for every sequence and layer, and states that are not K/V.

Block ids come from the scheduler; this only checks that nobody else holds them. It knows no model (a layer's shapes are
taken from the first rows written to it), no batches and no forward passes.

    block ids of a sequence   [7, 8, 2]             block_size 4, 10 rows cached
    rows of the sequence      0 1 2 3|4 5 6 7|8 9
    slots in each layer      28 ......... 35|8 9    consecutive blocks are read as a view, others gathered

Source: arXiv 2503.09304
"""

from collections.abc import Sequence
from enum import Enum, auto
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from gpu_worker.cache.block_table import BlockTable, HostCopy, StoreKey
from gpu_worker.cache.carrier import carrier_of
from gpu_worker.errors import CommandRefused
from gpu_worker.machine.devices import is_host, to_device

KV = "kv"
INDEXER = "indexer"


class Layout(Enum):
    """How the rows of a store lie in memory.

    Attributes:
        HEADS: The slots of one head side by side, for attention that goes through a sequence head by head, as on a CPU, which
            reads 1,000 rows 1.8 times as fast so.
        PAGES: The heads of one slot side by side: a block is one piece of memory, and a kernel can take a block table.
    """

    HEADS = auto()
    PAGES = auto()

    @classmethod
    def of(cls, device: torch.device) -> "Layout":
        """The layout that suits a device."""
        return cls.HEADS if is_host(device) else cls.PAGES


class UnifiedDynamicCache:
    """Paged K/V of all sequences.

    Storage of a layer is allocated at its first write: K, V and what else it keeps of each token, (H, num_slots, width) each.

    Args:
        num_blocks: Blocks on the device, with ids 0 .. num_blocks - 1.
        block_size: Tokens in one block.
        num_host_blocks: Blocks' worth of host memory for offloaded sequences.
        device: Where the blocks lie.
        layout: How; None is what suits the device.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        num_host_blocks: int,
        device: torch.device,
        layout: Layout | None = None,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.num_host_blocks = num_host_blocks
        self.device = device
        self.layout = layout or Layout.of(device)
        self._carrier = carrier_of(device)
        self._stores: dict[StoreKey, tuple[Tensor, ...]] = {}
        self._owners: dict[int, int] = {}
        self._tables: dict[int, BlockTable] = {}

    # ------------------------------------------------------------------------------------------------ accounting

    def new_table(self, seq_id: int) -> BlockTable:
        """Makes the table of a sequence that holds no blocks."""
        table = self._tables[seq_id] = BlockTable(seq_id, self.block_size, self.device)
        return table

    def check_free(self, block_ids: Sequence[int]) -> None:
        """Raises CommandRefused unless the blocks exist, are named once and belong to nobody."""
        for block_id in block_ids:
            if not 0 <= block_id < self.num_blocks:
                raise CommandRefused(f"block {block_id} does not exist; blocks are 0 to {self.num_blocks - 1}")
            if block_id in self._owners:
                raise CommandRefused(f"block {block_id} is held by sequence {self._owners[block_id]}")
        if len(set(block_ids)) != len(block_ids):
            raise CommandRefused(f"blocks {list(block_ids)} name a block twice")

    def extend(self, table: BlockTable, block_ids: Sequence[int]) -> None:
        """Adds free blocks to the end of a table."""
        if block_ids:
            self._give(table, block_ids)

    def forget(self, table: BlockTable) -> None:
        """Frees all that a sequence holds, on the device and on the host."""
        self._release(table)
        table.host = None
        table.void()
        del self._tables[table.seq_id]

    @property
    def scratch_block(self) -> int:
        """A block that is never given away, for rows that stand for nobody."""
        return self.num_blocks

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
        return self.num_host_blocks - sum(t.host.num_blocks for t in self._tables.values() if t.host)

    @property
    def device_bytes(self) -> int:
        """Bytes allocated for all layers' storage."""
        return sum(tensor.nbytes for store in self._stores.values() for tensor in store)

    @property
    def block_bytes(self) -> int:
        """Bytes of one block in all layers' storage."""
        return self.device_bytes // (self.num_blocks + 1)

    @property
    def state_bytes(self) -> int:
        """Bytes of what sequences on the device keep besides rows; they come on top of the blocks."""
        return sum(table.state.nbytes for table in self._tables.values() if table.host is None)

    def check_integrity(self) -> None:
        """Raises AssertionError unless each held block is in exactly the table of its owner."""
        held = {block_id: t.seq_id for t in self._tables.values() for block_id in t.block_ids}
        if held != self._owners or len(held) != sum(len(t.block_ids) for t in self._tables.values()):
            raise AssertionError(f"tables hold {held}, but the owners are {self._owners}")

    # ------------------------------------------------------------------------------------------------ moving

    def offload(self, table: BlockTable) -> None:
        """Copies a sequence's rows to host memory, those of an iteration under way included, and frees its blocks.

        Raises:
            CommandRefused: It is offloaded already, or host memory has no room for it.
        """
        if table.host is not None:
            raise CommandRefused(f"sequence {table.seq_id} is offloaded already")
        if len(table.block_ids) > self.num_free_host_blocks:
            raise CommandRefused(
                f"sequence {table.seq_id} holds {len(table.block_ids)} blocks, host memory has room for "
                f"{self.num_free_host_blocks} of {self.num_host_blocks}"
            )
        reads = [partial(self.read, layer, table, 0, table.num_reserved, kind) for layer, kind in self._stores]
        held = dict(zip(self._stores, self._carrier.take_out(reads, table.block_ids), strict=True))
        table.host = HostCopy(len(table.block_ids), held)
        table.state.move(torch.device("cpu"))
        self._release(table)

    def restore(self, table: BlockTable, block_ids: Sequence[int]) -> None:
        """Copies an offloaded sequence's rows into new blocks.

        Raises:
            CommandRefused: It is not offloaded, the blocks are not free, or there are not as many as it had.
        """
        if table.host is None:
            raise CommandRefused(f"sequence {table.seq_id} is not offloaded")
        if len(block_ids) != table.host.num_blocks:
            raise CommandRefused(
                f"sequence {table.seq_id} had {table.host.num_blocks} blocks, but {len(block_ids)} were given"
            )
        self.check_free(block_ids)
        host, table.host = table.host, None
        self._give(table, block_ids)
        for (layer, kind), rows in host.rows.items():
            slots = to_device(table.slots(0, rows[0].shape[1]), self.device)
            self.write(layer, slots, *map(self._carrier.bring_back, rows), kind=kind)
        table.state.move(self.device)

    # ------------------------------------------------------------------------------------------------ rows

    def write(self, layer: int, slots: Tensor, *rows: Tensor, kind: str = KV) -> None:
        """Stores rows of one layer at slots, allocating storage at the first.

        Args:
            layer: The layer.
            slots: Where each row goes, on the device (T,).
            rows: K and V, or whatever is stored together, (H, T, width) each; heads and width may differ.
            kind: Which of the layer's stores.
        """
        key = (layer, kind)
        if key not in self._stores:
            self._stores[key] = tuple(self._allocate(new) for new in rows)
        for store, new in zip(self._stores[key], rows, strict=True):
            store.index_copy_(1, slots, new)

    def read(self, layer: int, table: BlockTable, start: int, stop: int, kind: str = KV) -> tuple[Tensor, ...]:
        """Rows [start, stop) of a sequence, (H, rows, width) each, K and V or what was stored; views if its blocks follow on."""
        stores = self._stores[layer, kind]
        if table.first_slot is not None:
            first, count = table.first_slot + start, stop - start
            return tuple(store.narrow(1, first, count) for store in stores)
        slots = to_device(table.slots(start, stop), self.device)
        return tuple(store.index_select(1, slots) for store in stores)

    def slots_first(self, layer: int) -> tuple[Tensor, ...]:
        """K and V of all slots (num_slots, H, width), as views."""
        return tuple(store.transpose(0, 1) for store in self._stores[layer, KV])

    def _allocate(self, rows: Tensor) -> Tensor:
        """Storage (H, num_slots, width) for rows like these (H, T, width)."""
        H, _, width = rows.shape
        num_slots = (self.num_blocks + 1) * self.block_size  # the last are the scratch block's
        # Written to now, so that no request waits for the system to find the pages: with huge ones that took 0.3 s at times.
        # Kernels that read filled-up indices multiply what they find by zero, which must not be what is no number.
        if self.layout is Layout.HEADS:
            return torch.empty(H, num_slots, width, dtype=rows.dtype, device=self.device).zero_()
        return torch.empty(num_slots, H, width, dtype=rows.dtype, device=self.device).zero_().transpose(0, 1)

    def _give(self, table: BlockTable, block_ids: Sequence[int]) -> None:
        """Adds blocks to the end of a table."""
        self._owners.update(dict.fromkeys(block_ids, table.seq_id))
        self._carrier.claim(block_ids)
        table.place([*table.block_ids, *block_ids])

    def _release(self, table: BlockTable) -> None:
        for block_id in table.block_ids:
            del self._owners[block_id]
        table.place([])
