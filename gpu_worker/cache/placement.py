"""Where the rows of one pass lie, as tensors on the device that its kernels read, each brought over in one go.

    spans          |a: rows 3 4 5|b: row 41|              new rows of two sequences
    slots          |  19 20 21   |  57     |              where they go
    history        |16 . . . . 21|16*2 . . . . . 57|      where all rows of each lie that it may attend to, end to end
    block_table    [[4, 5, 0], [8, 2, 3]]                 the same, by block

It knows neither storage nor attention. It is made anew when a sequence is dropped or moves.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gpu_worker.cache.span import Span
from gpu_worker.machine.devices import to_device


def rows_seen(lengths: Tensor, longest: int, window: int | None) -> Tensor:
    """Which rows the last token sees of sequences of these lengths (S,): (S, longest), True where it does."""
    positions = torch.arange(longest, device=lengths.device)[None]  # (1, longest)
    ends = lengths[:, None]  # (S, 1)
    seen = positions < ends
    return seen if window is None else seen & (positions >= ends - window)


class Placement:
    """Indices of a pass's rows.

    Args:
        spans: The sequences' parts of the pass, dropped ones among them.
        block_size: Rows in one block.
        device: Where the indices go.

    Attributes:
        spans: The parts that are not dropped, at least one.
        num_rows: Rows of the pass.
        is_static: Whether histories are filled up, and stay where they are for a graph: those of a `StaticPlacement`.
    """

    is_static = False

    def __init__(self, spans: Sequence[Span], block_size: int, device: torch.device) -> None:
        self.spans = [span for span in spans if not span.dropped]
        self.num_rows = spans[-1].stop
        self._is_whole = len(self.spans) == len(spans)
        self._block_size = block_size
        self._device = device

    @staticmethod
    def state(spans: Sequence[Span]) -> object:
        """What a placement is made of: one that was made of the same is still right."""
        return [(span.start, span.table.generation) for span in spans if not span.dropped]

    # ---- rows of the pass

    @cached_property
    def slots(self) -> Tensor:
        """Slots of the rows to store (kept rows,)."""
        return self._on_device([span.table.slots(span.first_position, span.length) for span in self.spans])

    @cached_property
    def kept_rows(self) -> Tensor | None:
        """Those rows' numbers in the pass (kept rows,), None if they are all of them."""
        if self._is_whole:
            return None
        return self._on_device([torch.arange(span.start, span.stop) for span in self.spans])

    @property
    def nbytes(self) -> int:
        """Bytes of the indices that were made."""
        made = [value for value in vars(self).values() if isinstance(value, Tensor)]
        return sum(tensor.nbytes for tensor in made)

    # ---- all rows, end to end

    @cached_property
    def history(self) -> Tensor:
        """Slots of all rows that the sequences may attend to, end to end (rows,)."""
        return self._on_device([span.table.slots(0, span.length) for span in self.spans])

    @property
    def histories(self) -> tuple[Tensor, ...]:
        """The same, one for each sequence (rows,)."""
        return torch.split(self.history, [span.length for span in self.spans])

    @cached_property
    def query_bounds(self) -> Tensor:
        """Where each sequence's part of the kept rows begins, and the end of the last (N + 1,), int32."""
        return self._bounds([span.num_tokens for span in self.spans])

    @cached_property
    def history_bounds(self) -> Tensor:
        """Likewise of the history (N + 1,), int32."""
        return self._bounds([span.length for span in self.spans])

    @cached_property
    def lengths(self) -> Tensor:
        """Rows of each sequence's history (N,), int32."""
        return self._on_device([torch.tensor([span.length for span in self.spans], dtype=torch.int32)])

    @property
    def max_queries(self) -> int:
        """Most new rows of one sequence."""
        return max(span.num_tokens for span in self.spans)

    @property
    def max_length(self) -> int:
        """Longest history."""
        return max(span.length for span in self.spans)

    @cached_property
    def block_table(self) -> Tensor:
        """Blocks of each sequence's history, the rest filled up with block 0 (N, blocks), int32."""
        blocks = [torch.tensor(span.table.blocks_of(span.length), dtype=torch.int32) for span in self.spans]
        return self._on_device([pad_sequence(blocks, batch_first=True)])

    # ---- decodes, side by side

    @property
    def singles(self) -> list[Span]:
        """The sequences with one new row."""
        return [span for span in self.spans if span.num_tokens == 1]

    @cached_property
    def single_rows(self) -> Tensor:
        """Their numbers among the kept rows (S,)."""
        ends = accumulate(span.num_tokens for span in self.spans)
        rows = [end - 1 for end, span in zip(ends, self.spans, strict=True) if span.num_tokens == 1]
        return self._on_device([torch.tensor(rows)])

    @cached_property
    def single_slots(self) -> Tensor:
        """Slots of their histories, aligned at the first row and filled up with slot 0 (S, longest)."""
        return self._on_device([pad_sequence([s.table.slots(0, s.length) for s in self.singles], batch_first=True)])

    def single_mask(self, window: int | None) -> Tensor:
        """Which of `single_slots` each of them sees: (S, longest), True where it does."""
        return rows_seen(self._single_lengths, self.single_slots.shape[1], window)

    @cached_property
    def _single_lengths(self) -> Tensor:
        return self._on_device([torch.tensor([span.length for span in self.singles])])

    def _bounds(self, sizes: Sequence[int]) -> Tensor:
        return self._on_device([torch.tensor([0, *sizes]).cumsum(0).to(torch.int32)])

    def _on_device(self, parts: Sequence[Tensor]) -> Tensor:
        return to_device(parts[0] if len(parts) == 1 else torch.cat(list(parts)), self._device)
