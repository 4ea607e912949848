"""Where one sequence's rows lie, on the device or off it, and what its layers keep besides.

    block ids of a sequence   [7, 8, 2]             block_size 4, 10 rows cached
    slots in each layer       28 ......... 35|8 9

It checks nothing: ids come from the scheduler, and the ledger knows who holds which.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from gpu_worker.cache.state import RecurrentState

StoreKey = tuple[int, str]
"""A layer, and which of the things that it stores a row of for every token."""
KV = "kv"
INDEXER = "indexer"


class Away(Protocol):
    """The rows of one sequence off the device, as they were taken out."""

    def rows(self) -> Mapping[StoreKey, tuple[Tensor, ...]]:
        """What each store held of it, in host memory; raises OSError where it can't be read."""

    def discard(self) -> None:
        """Lets go of them."""


class BlockTable:
    """Where one sequence's rows lie. Suspended passes refer to it, so moving the sequence is seen by them.

    Attributes:
        seq_id: The sequence.
        block_ids: Its blocks on the device, in order; empty while offloaded.
        num_cached: Rows that hold the cache of finished iterations.
        num_reserved: Rows that the iteration under way writes up to; num_cached when there is none.
        away: Its rows while it is offloaded; else None.
        state: What its layers keep besides rows; it is in host memory while the rows are off the device.
        generation: Rises whenever rows change their place.
    """

    __slots__ = (
        "_block_size",
        "_runs",
        "_slots",
        "away",
        "block_ids",
        "generation",
        "num_cached",
        "num_reserved",
        "seq_id",
        "state",
    )

    def __init__(self, seq_id: int, block_size: int, device: torch.device) -> None:
        self.seq_id = seq_id
        self.num_cached = 0
        self.num_reserved = 0
        self.away: Away | None = None
        self.state = RecurrentState(device)
        self.generation = 0
        self._block_size = block_size
        self.place([])

    def find(self, num_rows: int) -> None:
        """Says that the blocks held so many rows of the sequence already when it was given them."""
        self.num_cached = self.num_reserved = num_rows

    def follow(self, parent: "BlockTable") -> None:
        """Begins where another sequence stands, of which the blocks hold the rows."""
        self.find(parent.num_cached)
        self.state = parent.state.copy()

    def begin(self, first_position: int, num_tokens: int) -> None:
        """Begins an iteration that adds rows."""
        self.num_reserved = first_position + num_tokens
        self.state.begin(is_first=first_position == 0)

    def commit(self) -> None:
        """Ends the iteration under way: its rows and states are the sequence's own now."""
        self.num_cached = self.num_reserved
        self.state.commit()

    def abandon(self) -> None:
        """Ends the iteration under way without keeping what it wrote."""
        self.num_reserved = self.num_cached

    def void(self) -> None:
        """Forgets what was cached; the blocks stay."""
        self.num_cached = self.num_reserved = 0
        self.state.clear()

    def place(self, block_ids: list[int]) -> None:
        """Says which blocks hold the rows from now on."""
        self.block_ids = block_ids
        self.generation += 1
        self._slots: Tensor | None = None
        self._runs: list[range] | None = None

    def runs(self, start: int, stop: int) -> list[range]:
        """Slots of the rows [start, stop), one range for each run of consecutive ones."""
        if self._runs is None:
            self._runs = _runs(self.block_ids, self._block_size)
        found, row = [], 0
        for run in self._runs:
            if row >= stop:
                break
            if part := run[max(0, start - row) : stop - row]:
                found.append(part)
            row += len(run)
        return found

    def slots(self, start: int, stop: int) -> Tensor:
        """Slots of the rows [start, stop), on the host (stop - start,)."""
        if self._slots is None:
            first_slots = torch.tensor(self.block_ids, dtype=torch.int64) * self._block_size  # (blocks,)
            slots = first_slots[:, None] + torch.arange(self._block_size)  # (blocks, block_size)
            self._slots = slots.flatten()
        return self._slots[start:stop]

    def blocks_of(self, num_rows: int) -> list[int]:
        """The blocks that hold the first rows."""
        return self.block_ids[: -(-num_rows // self._block_size)]


def _runs(block_ids: Sequence[int], block_size: int) -> list[range]:
    """The slots of blocks, one range for each run of consecutive ones."""
    bounds = [
        0,
        *(place for place, (one, other) in enumerate(pairwise(block_ids), 1) if other != one + 1),
        len(block_ids),
    ]
    return [
        range(block_ids[first] * block_size, (block_ids[end - 1] + 1) * block_size)
        for first, end in pairwise(bounds)
        if first < end
    ]
