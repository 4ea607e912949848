"""Where the rows of a decode lie, in tensors that stay where they are: what a CUDA graph reads at every replay.

    sequences    a b c        rows of a graph for 4     slots        [19, 57, 8, scratch]
                                                        lengths      [ 6, 42, 9, 1]
                                                        block_table  [[4, 5, 0], [8, 2, 3], [2, 0, 0], [scratch, 0, 0]]

A row that stands for nobody, or for a sequence that was dropped, writes to a scratch block and reads what it wrote.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gpu_worker.cache.placement import rows_seen
from gpu_worker.cache.span import Span
from gpu_worker.machine.devices import to_device


class StaticPlacement:
    """What attention asks of a `Placement`, for so many sequences with one new row each.

    Args:
        num_rows: Rows of the graph.
        max_blocks: Blocks of the longest sequence that it takes.
        block_size: Rows in one block.
        scratch_block: Block that belongs to nobody.
        device: Where the tensors lie.

    Attributes:
        slots: Slots of the new rows (num_rows,).
        lengths: Rows of each sequence's history (num_rows,), int32.
        block_table: Blocks of each history (num_rows, max_blocks), int32.
        is_live: Which rows stand for a sequence (num_rows,).
        kept_rows: None: every row is stored.
        is_static: Whether histories are filled up: they are.
    """

    kept_rows: Tensor | None = None
    spans: tuple[Span, ...] = ()  # prompts, of which there are none
    histories: tuple[Tensor, ...] = ()
    max_queries = 1
    is_static = True

    def __init__(
        self, num_rows: int, max_blocks: int, block_size: int, scratch_block: int, device: torch.device
    ) -> None:
        self.num_rows = num_rows
        self.max_length = max_blocks * block_size
        self._block_size = block_size
        self._scratch_block = scratch_block
        self._device = device
        self.slots = torch.full((num_rows,), scratch_block * block_size, device=device)
        self.lengths = torch.ones(num_rows, dtype=torch.int32, device=device)
        self.block_table = torch.full((num_rows, max_blocks), scratch_block, dtype=torch.int32, device=device)
        self.is_live = torch.zeros(num_rows, dtype=torch.bool, device=device)
        self.query_bounds = torch.arange(num_rows + 1, dtype=torch.int32, device=device)  # (num_rows + 1,)
        self.history_bounds = self.query_bounds * self.max_length  # (num_rows + 1,), int32
        self.single_rows = torch.arange(num_rows, device=device)  # (num_rows,)

    def fits(self, spans: Sequence[Span]) -> bool:
        """Whether sequences can be placed here."""
        return len(spans) <= self.num_rows and all(
            span.num_tokens == 1 and span.length <= self.max_length for span in spans
        )

    def place(self, spans: Sequence[Span]) -> None:
        """Says where the sequences' rows lie now; dropped ones lie nowhere."""
        slots = torch.full((self.num_rows,), self._scratch_block * self._block_size)
        lengths = torch.ones(self.num_rows, dtype=torch.int32)
        table = torch.zeros(self.block_table.shape, dtype=torch.int32)
        table[:, 0] = self._scratch_block
        is_live = torch.zeros(self.num_rows, dtype=torch.bool)
        for row, span in enumerate(spans):
            if not span.dropped:
                blocks = span.table.blocks_of(span.length)
                slots[row] = span.table.slots(span.first_position, span.length)[0]
                lengths[row] = span.length
                table[row, : len(blocks)] = torch.tensor(blocks, dtype=torch.int32)
                is_live[row] = True
        for static, filled in (
            (self.slots, slots),
            (self.lengths, lengths),
            (self.block_table, table),
            (self.is_live, is_live),
        ):
            static.copy_(to_device(filled, self._device))

    # ---- read while a graph is made, on the device

    @property
    def singles(self) -> range:
        """The rows."""
        return range(self.num_rows)

    @property
    def single_slots(self) -> Tensor:
        """Slots of the histories, filled up (num_rows, max_length)."""
        offsets = torch.arange(self._block_size, device=self._device)  # (block_size,)
        return (self.block_table.long()[:, :, None] * self._block_size + offsets).flatten(1)

    @property
    def history(self) -> Tensor:
        """The same, end to end (num_rows * max_length,)."""
        return self.single_slots.flatten()

    def single_mask(self, window: int | None) -> Tensor:
        """Which of `single_slots` each row sees: (num_rows, max_length), True where it does."""
        return rows_seen(self.lengths, self.max_length, window)

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, Tensor))
