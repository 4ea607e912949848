"""Unified Dynamic Cache: owns the bytes of K and V, in blocks, for every sequence and layer, and states besides K/V.

Who holds which block is the ledger's to know, and to refuse. It knows no model (a layer's shapes are taken from the
first rows written to it), no batches and no forward passes.

    block ids of a sequence   [7, 8, 2]             block_size 4, 10 rows cached
    rows of the sequence      0 1 2 3|4 5 6 7|8 9
    slots in each layer      28 ......... 35|8 9    two runs of slots: a few are read as views, more gathered

Source: arXiv 2503.09304, section 4 (Unified Dynamic Cache).
"""

from collections.abc import Sequence
from enum import Enum, auto
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from gpu_worker.cache.block_table import KV, BlockTable, StoreKey
from gpu_worker.cache.carrier import Read
from gpu_worker.cache.compressed import AsComputed, Form
from gpu_worker.cache.disk_store import DiskStore
from gpu_worker.cache.offloaded import Mover
from gpu_worker.contract.commands import Tier
from gpu_worker.contract.ledger import BlockLedger
from gpu_worker.machine.devices import is_host, to_device

# A shared prefix, what a fork shares, and a sequence's own blocks; of many short runs calls take the time.
_MOST_VIEWS = 4


class Layout(Enum):
    """How the rows of a store lie in memory.

    Attributes:
        HEADS: The slots of one head side by side, for attention that goes through a sequence head by head, as on a CPU,
            which reads 1,000 rows 1.8 times as fast so.
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

    Storage of a layer is allocated at its first write: K, V and what else it keeps of each
    token, (H, num_slots, width) each.

    Args:
        blocks: Who holds which blocks.
        device: Where the blocks lie.
        layout: How; None is what suits the device.
        disk: Where sequences may be offloaded to besides the host; None: nowhere.
        form: How rows lie off the device; None is as they were computed.
    """

    def __init__(
        self,
        blocks: BlockLedger,
        device: torch.device,
        layout: Layout | None = None,
        disk: DiskStore | None = None,
        form: Form | None = None,
    ) -> None:
        self.blocks = blocks
        self.num_blocks = blocks.num_blocks
        self.block_size = blocks.block_size
        self.device = device
        self.layout = layout or Layout.of(device)
        self._form = form or AsComputed(blocks.block_size)
        self._mover = Mover(device, disk, self._form)
        self._stores: dict[StoreKey, tuple[Tensor, ...]] = {}
        self._tables: dict[int, BlockTable] = {}

    # ---- tables

    def new_table(self, seq_id: int) -> BlockTable:
        """Makes the table of a sequence that holds no blocks."""
        table = self._tables[seq_id] = BlockTable(seq_id, self.block_size, self.device)
        return table

    def extend(self, table: BlockTable, block_ids: Sequence[int]) -> None:
        """Adds blocks, which must be free, to the end of a table."""
        if block_ids:
            self.blocks.extend(table.seq_id, block_ids)
            self._settle(table, block_ids)

    def share(self, table: BlockTable, block_ids: Sequence[int]) -> None:
        """Has the table of a sequence that holds nothing begin with blocks that are full of its rows already."""
        if block_ids:
            self.blocks.share(table.seq_id, block_ids)
            self._settle(table, block_ids)
            table.find(len(block_ids) * self.block_size)

    def fork(self, table: BlockTable, parent: BlockTable, new_block_ids: Sequence[int]) -> None:
        """Has the table of a sequence that holds nothing begin where another stands.

        Args:
            table: The sequence's.
            parent: The other's, which is on the device with no iteration under way. Its full blocks are shared.
            new_block_ids: The free block that rows of its last one are copied to, if that is not full.
        """
        num_full = parent.num_cached // self.block_size
        self.share(table, parent.block_ids[:num_full])
        self.extend(table, new_block_ids)
        table.follow(parent)
        if new_block_ids:
            copied = num_full * self.block_size, parent.num_cached
            source, target = (to_device(one.slots(*copied), self.device) for one in (parent, table))
            for store in chain.from_iterable(self._stores.values()):
                store.index_copy_(1, target, store.index_select(1, source))

    def forget(self, table: BlockTable) -> None:
        """Gives up all that a sequence holds, on the device and off it."""
        self.blocks.forget(table.seq_id)
        table.place([])
        if table.away is not None:
            table.away.discard()
            table.away = None
        table.void()
        del self._tables[table.seq_id]

    @property
    def scratch_block(self) -> int:
        """A block that is never given away, for rows that stand for nobody."""
        return self.num_blocks

    @property
    def device_bytes(self) -> int:
        """Bytes allocated for all layers' storage."""
        return sum(tensor.nbytes for store in self._stores.values() for tensor in store)

    @property
    def block_bytes(self) -> int:
        """Bytes of one block in all layers' storage."""
        return self.device_bytes // (self.num_blocks + 1)

    @property
    def host_block_bytes(self) -> int:
        """Bytes of one block of all layers off the device."""
        return sum(self._form.block_bytes(key, store) for key, store in self._stores.items())

    @property
    def state_bytes(self) -> int:
        """Bytes of what sequences on the device keep besides rows; they come on top of the blocks."""
        return sum(table.state.nbytes for table in self._tables.values() if table.away is None)

    def check_integrity(self) -> None:
        """Raises AssertionError unless each table lists the blocks that its sequence holds, and the ledger is right."""
        self.blocks.check_integrity()
        self._mover.check_integrity(self.blocks.num_free_disk_blocks)
        for table in self._tables.values():
            if table.block_ids != list(held := self.blocks.held_by(table.seq_id)):
                raise AssertionError(
                    f"the table of sequence {table.seq_id} lists {table.block_ids}, but it holds {held}"
                )

    # ---- moving

    def offload(self, table: BlockTable, tier: Tier = Tier.HOST) -> None:
        """Copies a sequence's rows off the device, those of an iteration under way included, and frees its blocks.

        What its layers keep besides goes to host memory, whatever the tier: it is small. A
        sequence that is on the host moves on to disk.

        Raises:
            CommandRefused: It is there already, or there is no room for it.
        """
        self.blocks.check_offload(table.seq_id, tier)
        # Copied before its blocks are free: if there is no room after all, nothing has changed.
        if table.away is None:
            reads = {key: self._reads(table, *key) for key in self._stores}
            away = self._mover.take_out(reads, table.block_ids, tier)
        else:
            away = self._mover.move_on(table.away)
        table.state.move(torch.device("cpu"))
        self.blocks.offload(table.seq_id, tier)
        table.away = away
        table.place([])

    def restore(self, table: BlockTable, block_ids: Sequence[int], num_shared_blocks: int = 0) -> None:
        """Copies an offloaded sequence's rows into new blocks, but for those that the first few hold already.

        Raises:
            CommandRefused: It is not offloaded, the blocks are not free, or there are not as many as it had.
        """
        self.blocks.restore(table.seq_id, block_ids, num_shared_blocks)
        self._settle(table, block_ids)
        first = num_shared_blocks * self.block_size
        slots = to_device(table.slots(first, table.num_reserved), self.device)
        if table.away is not None:
            # All rows come back, those that are here already too: part of page-locked memory is not one piece, and
            # the host would wait for its copy.
            for (layer, kind), rows in self._mover.bring_back(table.away, self._stores):
                self.write(layer, slots, *(one.narrow(1, first, len(slots)) for one in rows), kind=kind)
            table.away.discard()
            table.away = None
        table.state.move(self.device)

    # ---- rows

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
        """K and V, or what was stored, of rows [start, stop) (H, rows, width): views of one run, else copies."""
        if len(runs := table.runs(start, stop)) == 1:
            return self._view(layer, kind, runs[0])
        slots = to_device(table.slots(start, stop), self.device)
        return tuple(store.index_select(1, slots) for store in self._stores[layer, kind])

    def read_runs(self, layer: int, table: BlockTable, start: int, stop: int) -> list[tuple[Tensor, ...]]:
        """K and V as `read` gives them, in pieces end to end: views where there are few runs, else one copy."""
        runs = table.runs(start, stop)
        if len(runs) > _MOST_VIEWS:
            return [self.read(layer, table, start, stop)]
        return [self._view(layer, KV, run) for run in runs]

    def _view(self, layer: int, kind: str, run: range) -> tuple[Tensor, ...]:
        return tuple(store.narrow(1, run.start, len(run)) for store in self._stores[layer, kind])

    def slots_first(self, layer: int) -> tuple[Tensor, ...]:
        """K and V of all slots (num_slots, H, width), as views."""
        return tuple(store.transpose(0, 1) for store in self._stores[layer, KV])

    def _reads(self, table: BlockTable, layer: int, kind: str) -> Read:
        return partial(self.read, layer, table, 0, table.num_reserved, kind)

    def _allocate(self, rows: Tensor) -> Tensor:
        """Storage (H, num_slots, width) for rows like these (H, T, width)."""
        H, _, width = rows.shape
        num_slots = (self.num_blocks + 1) * self.block_size  # the last are the scratch block's
        # Written to now, so that no request waits for the system to find the pages: with huge ones that took
        # 0.3 s at times. Kernels that read filled-up indices multiply what they find by zero, which must not be
        # what is no number.
        if self.layout is Layout.HEADS:
            return torch.empty(H, num_slots, width, dtype=rows.dtype, device=self.device).zero_()
        return torch.empty(num_slots, H, width, dtype=rows.dtype, device=self.device).zero_().transpose(0, 1)

    def _settle(self, table: BlockTable, block_ids: Sequence[int]) -> None:
        """Lets a table see the blocks that its sequence was just given, once rows that left them are out of the way."""
        self._mover.claim(block_ids)
        table.place(list(self.blocks.held_by(table.seq_id)))
