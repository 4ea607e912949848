"""Rows of offloaded sequences in a memory-mapped file: slots of one size, each with room for one block of all layers.

    rows of a sequence   |layer 0: K|V|layer 1: K|V| ...      as one stream of bytes, a store behind the other
    slots of the file        |3|            |9|   |4| ...      which fills its slots one after the other

The file has no name, so that nothing is left of it however the process ends. All of it is allocated when it is made:
a full disk is found out then, and not as SIGBUS while it is written to. It knows no blocks, only how many bytes one
has.
"""

import mmap
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import torch
from torch import Tensor

from gpu_worker.cache.block_table import StoreKey

Rows = Mapping[StoreKey, tuple[Tensor, ...]]
"""What each store holds of a sequence, as it is kept."""


@dataclass(frozen=True, slots=True)
class Place:
    """The form of a tensor that is on disk."""

    shape: torch.Size
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class DiskCopy:
    """The rows of one sequence on disk.

    Attributes:
        store: Where they are.
        slots: The slots that they fill, in order.
        places: The forms of the tensors, in order.
    """

    store: "DiskStore"
    slots: Sequence[int]
    places: Mapping[StoreKey, tuple[Place, ...]]

    def rows(self) -> Rows:
        """They, read into host memory."""
        return self.store.read(self)

    def discard(self) -> None:
        """Lets go of them: others may be written there."""
        self.store.discard(self)


class DiskStore:
    """Slots in a file of its own.

    Args:
        directory: Where the file is; on a file system that allocates what it is asked to.
        num_slots: Slots, at least one.
        slot_bytes: Bytes of each.

    Raises:
        OSError: The file can't be made, or there is no room for it.
    """

    def __init__(self, directory: Path, num_slots: int, slot_bytes: int) -> None:
        self.num_slots = num_slots
        self.slot_bytes = slot_bytes
        with TemporaryFile(dir=directory, prefix="qllm-offload-", buffering=0) as file:
            os.posix_fallocate(file.fileno(), 0, num_slots * slot_bytes)
            mapped = mmap.mmap(file.fileno(), num_slots * slot_bytes)
        self._slots = torch.frombuffer(mapped, dtype=torch.uint8).view(num_slots, slot_bytes)
        self._free = list(reversed(range(num_slots)))

    @property
    def num_free_slots(self) -> int:
        """Slots that nobody fills."""
        return len(self._free)

    def write(self, rows: Rows) -> DiskCopy:
        """Copies rows to as few slots as they fill.

        Raises:
            OSError: There are not as many free slots.
        """
        tensors = [one for held in rows.values() for one in held]
        needed = -(-sum(one.nbytes for one in tensors) // self.slot_bytes)
        if needed > len(self._free):
            raise OSError(f"{needed} slots of the offload file are needed, {len(self._free)} are free")
        slots = [self._free.pop() for _ in range(needed)]
        for there, here in self._pieces(slots, tensors):
            there.copy_(here)
        return DiskCopy(self, slots, {key: tuple(map(_place, held)) for key, held in rows.items()})

    def read(self, copy: DiskCopy) -> Rows:
        """Copies rows back into host memory."""
        rows = {
            key: tuple(torch.empty(place.shape, dtype=place.dtype) for place in places)
            for key, places in copy.places.items()
        }
        for there, here in self._pieces(copy.slots, (one for held in rows.values() for one in held)):
            here.copy_(there)
        return rows

    def discard(self, copy: DiskCopy) -> None:
        """Makes the slots of rows free again."""
        self._free.extend(reversed(copy.slots))

    def _pieces(self, slots: Sequence[int], tensors: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Divides the bytes of tensors where slots end: pairs of bytes in the file and of a tensor, of one length."""
        at = 0  # in the stream
        for tensor in tensors:
            left = tensor.contiguous().view(-1).view(torch.uint8)  # (bytes,)
            while len(left):
                number, offset = divmod(at, self.slot_bytes)
                there = self._slots[slots[number], offset : offset + len(left)]
                yield there, left[: len(there)]
                left, at = left[len(there) :], at + len(there)


def _place(tensor: Tensor) -> Place:
    return Place(tensor.shape, tensor.dtype)
