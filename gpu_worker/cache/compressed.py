"""The form in which rows lie off the device: as they were computed, or as whole numbers of 8 bits with scales.

    rows (H, T, width)  ──▶  numbers (H, T, width) int8, scales (H, blocks) float32      row = number * scale

One scale for each head and block: heads differ in size, and a block is what comes and goes, so that 16 rows of 128
numbers share one scale, 0.2 % of their bytes. No number is further from its own than half of its scale, which is the
largest of the block through 127. The keys of an indexer stay as they are: they choose which rows are attended to, where
a small difference is a different choice, and they are few.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from gpu_worker.cache.block_table import INDEXER, StoreKey

_LARGEST = 127


class Form(Protocol):
    """How what a store holds of a sequence is written off the device."""

    def pack(self, key: StoreKey, rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Rows of a store (H, T, width) each, as they are kept."""

    def unpack(self, key: StoreKey, packed: tuple[Tensor, ...], like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The rows again, each of the type of a tensor that is like it."""

    def block_bytes(self, key: StoreKey, store: tuple[Tensor, ...]) -> int:
        """Bytes of one block of a store (H, slots, width) each, as it is kept."""


class AsComputed:
    """Every bit as it was.

    Args:
        block_size: Rows in one block.
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size

    def pack(self, key: StoreKey, rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The rows themselves."""
        return rows

    def unpack(self, key: StoreKey, packed: tuple[Tensor, ...], like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Likewise."""
        return packed

    def block_bytes(self, key: StoreKey, store: tuple[Tensor, ...]) -> int:
        """Bytes of one block on the device."""
        return sum(one.shape[0] * self._block_size * one.shape[2] * one.element_size() for one in store)


class Int8:
    """Whole numbers with scales, for all but the keys of an indexer.

    Args:
        block_size: Rows in one block.
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._as_computed = AsComputed(block_size)

    def pack(self, key: StoreKey, rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Numbers and scales of each, in turns."""
        if _decides(key):
            return rows
        return tuple(part for one in rows for part in compress(one, self._block_size))

    def unpack(self, key: StoreKey, packed: tuple[Tensor, ...], like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The rows, as nearly as the numbers say."""
        if _decides(key):
            return packed
        pairs = zip(packed[::2], packed[1::2], like, strict=True)
        return tuple(expand(numbers, scales, self._block_size, one.dtype) for numbers, scales, one in pairs)

    def block_bytes(self, key: StoreKey, store: tuple[Tensor, ...]) -> int:
        """Bytes of one block's numbers and scales."""
        if _decides(key):
            return self._as_computed.block_bytes(key, store)
        scale_bytes = torch.float32.itemsize
        return sum(one.shape[0] * (self._block_size * one.shape[2] + scale_bytes) for one in store)


def compress(rows: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Numbers (H, T, width) in int8 and scales (H, blocks) of rows (H, T, width), whose last block may be short."""
    num_heads, num_rows, width = rows.shape
    if not rows.numel():
        num_blocks = -(-num_rows // block_size)
        return rows.to(torch.int8), torch.zeros(num_heads, num_blocks, device=rows.device)
    blocks = pad(rows.float(), (0, 0, 0, -num_rows % block_size)).view(num_heads, -1, block_size * width)
    scales = blocks.abs().amax(-1) / _LARGEST  # (H, blocks)
    divisors = torch.where(scales > 0, scales, 1.0)[..., None]  # (H, blocks, 1)
    numbers = (blocks / divisors).round_().clamp_(-_LARGEST, _LARGEST).to(torch.int8)
    return numbers.view(num_heads, -1, width)[:, :num_rows], scales


def expand(numbers: Tensor, scales: Tensor, block_size: int, dtype: torch.dtype) -> Tensor:
    """Rows (H, T, width) of a type from what `compress` made of them."""
    each = scales.repeat_interleave(block_size, 1)[:, : numbers.shape[1], None]  # (H, T, 1)
    return (numbers * each).to(dtype)


def _decides(key: StoreKey) -> bool:
    """Whether rows of a store choose which others are attended to."""
    return key[1] == INDEXER
