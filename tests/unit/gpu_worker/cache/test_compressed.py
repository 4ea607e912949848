"""Rows off the device in int8 are as near as half a scale, of the shape and type that they had, and much smaller."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_worker.cache.compressed import AsComputed, Int8, compress, expand

BLOCK_SIZE = 4
KV_KEY, INDEXER_KEY = (0, "kv"), (0, "indexer")


@st.composite
def some_rows(draw: st.DrawFn) -> torch.Tensor:
    """Rows (H, T, width) of many sizes, also none, and each head of a size of its own."""
    num_heads, num_rows, width = draw(st.integers(1, 3)), draw(st.integers(0, 11)), draw(st.integers(0, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    size = st.sampled_from([0.0, 1e-20, 1e-3, 1.0, 300.0, 1e20])
    sizes = torch.tensor(draw(st.lists(size, min_size=num_heads, max_size=num_heads)))
    return torch.randn(num_heads, num_rows, width, generator=generator) * sizes[:, None, None]


@settings(max_examples=150, deadline=None)
@given(some_rows())
def test_no_element_is_further_off_than_half_the_scale_of_its_head_and_block(rows: torch.Tensor) -> None:
    numbers, scales = compress(rows, BLOCK_SIZE)
    back = expand(numbers, scales, BLOCK_SIZE, rows.dtype)
    assert (numbers.dtype, scales.dtype, back.shape) == (torch.int8, torch.float32, rows.shape)
    assert scales.shape == (rows.shape[0], -(-rows.shape[1] // BLOCK_SIZE))
    most = scales.repeat_interleave(BLOCK_SIZE, 1)[:, : rows.shape[1], None] / 2
    assert ((back - rows).abs() <= most * (1 + 1e-5)).all()
    for head in range(rows.shape[0]):  # a scale is no larger than it must be
        for block in range(scales.shape[1]):
            part = rows[head, block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE]
            assert not part.numel() or torch.isclose(scales[head, block] * 127, part.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_round_trip_keeps_shapes_and_types_and_an_indexers_keys_bit_by_bit(dtype: torch.dtype) -> None:
    form = Int8(BLOCK_SIZE)
    k, v = torch.randn(2, 10, 16).to(dtype), torch.randn(1, 10, 8).to(dtype)
    packed = form.pack(KV_KEY, (k, v))
    assert [one.dtype for one in packed] == [torch.int8, torch.float32] * 2
    for one, other in zip(form.unpack(KV_KEY, packed, (k, v)), (k, v), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert torch.allclose(one.float(), other.float(), atol=0.05)
        assert not torch.equal(one, other)
    (keys,) = form.unpack(INDEXER_KEY, form.pack(INDEXER_KEY, (k,)), (k,))
    assert torch.equal(keys, k)


def test_a_block_takes_a_byte_for_each_number_and_four_for_each_heads_scale() -> None:
    store = (torch.empty(2, 40, 16, dtype=torch.bfloat16), torch.empty(1, 40, 8, dtype=torch.bfloat16))
    assert AsComputed(BLOCK_SIZE).block_bytes(KV_KEY, store) == 2 * BLOCK_SIZE * (2 * 16 + 8)
    assert Int8(BLOCK_SIZE).block_bytes(KV_KEY, store) == BLOCK_SIZE * (2 * 16 + 8) + 4 * 3
    assert Int8(BLOCK_SIZE).block_bytes(INDEXER_KEY, store) == AsComputed(BLOCK_SIZE).block_bytes(INDEXER_KEY, store)
