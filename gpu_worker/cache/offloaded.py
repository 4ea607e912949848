"""Takes the rows of a sequence off the device, to the host or to disk, and brings them back.

    device ──carrier──▶ host ──▶ disk        from the host they may move on to disk, and never back to the host alone
       ▲                 │        │
       ╰─────carrier─────┴────────╯

It knows neither who holds which blocks, nor what the rows mean.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gpu_worker.cache.block_table import Away, StoreKey
from gpu_worker.cache.carrier import Read, carrier_of
from gpu_worker.cache.compressed import Form
from gpu_worker.cache.disk_store import DiskStore, Rows
from gpu_worker.contract.commands import Tier


@dataclass(frozen=True, slots=True)
class HostCopy:
    """The rows of one sequence in host memory."""

    held: Rows

    def rows(self) -> Rows:
        """They."""
        return self.held

    def discard(self) -> None:
        """Nothing: they go with this."""


class Mover:
    """Moves rows.

    Args:
        device: Where blocks lie.
        disk: Where rows go that are asked to be on disk; None: nowhere.
        form: How they lie off the device.
    """

    def __init__(self, device: torch.device, disk: DiskStore | None, form: Form) -> None:
        self._carrier = carrier_of(device)
        self._disk = disk
        self._form = form

    def take_out(self, reads: Mapping[StoreKey, Read], block_ids: Sequence[int], tier: Tier) -> Away:
        """Copies what the reads give, which lies in the blocks; the blocks may be reused at once.

        Raises:
            OSError: The disk has no room, or there is none.
        """
        packed = [partial(self._pack, key, read) for key, read in reads.items()]  # on the device, which is faster at it
        rows = HostCopy(dict(zip(reads, self._carrier.take_out(packed, block_ids), strict=True)))
        return rows if tier is Tier.HOST else self.move_on(rows)

    def move_on(self, away: Away) -> Away:
        """Copies rows from the host to disk; raises as `take_out` does."""
        if self._disk is None:
            raise OSError("there is no disk to offload to")
        rows = away.rows()
        self._carrier.wait()
        moved = self._disk.write(rows)
        away.discard()
        return moved

    def bring_back(self, away: Away, stores: Rows) -> Iterator[tuple[StoreKey, tuple[Tensor, ...]]]:
        """The rows, on the device, for each of the stores; raises OSError where they can't be read."""
        for key, held in away.rows().items():
            yield key, self._form.unpack(key, tuple(map(self._carrier.bring_back, held)), stores[key])

    def claim(self, block_ids: Sequence[int]) -> None:
        """Makes sure that whatever is done from now on finds the blocks free to be written to."""
        self._carrier.claim(block_ids)

    def check_integrity(self, num_free_blocks: int) -> None:
        """Raises AssertionError unless there is room on disk for as many blocks as are free there."""
        if self._disk is not None and self._disk.num_free_slots < num_free_blocks:
            raise AssertionError(
                f"{num_free_blocks} blocks of the disk are free, {self._disk.num_free_slots} of its slots"
            )

    def _pack(self, key: StoreKey, read: Read) -> tuple[Tensor, ...]:
        return self._form.pack(key, read())
