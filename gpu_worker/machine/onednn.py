"""Owns the calls of oneDNN's products, and finds out which of them this CPU has.

    float32     every x86-64 CPU
    bfloat16    those with AVX-512 (avx512bw) or AVX-NE-CONVERT
    float16     those with AVX512-FP16 or AVX-NE-CONVERT

torch raises where oneDNN has no product for a type, a shape and a CPU: so it is asked by trying. It knows no models.
"""

from functools import cache

import torch
from torch import Tensor

_TRIED_ROWS = (1, 64)
_TRIED_SHAPES = ((1, 1), (96, 64))


def pack(weight: Tensor) -> Tensor:
    """Returns a weight (out, in) in the order in which oneDNN's kernels read, opaque to everything but `product`.

    Raises:
        RuntimeError: This CPU packs no such weights.
    """
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    return packed


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiplies x (..., in) by a weight's transpose (out, in), packed or as it is, and adds a bias (out,): (..., out).

    Raises:
        RuntimeError: This CPU has no such product.
    """
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether weights of a type can be packed on a device; tried once."""
    return device.type == "cpu" and _can_pack(dtype)


def packs(weight: Tensor) -> bool:
    """Whether a weight (out, in) can be packed, and multiplied by then; makes a packed form to see, and drops it."""
    try:
        return _multiplies(pack(weight), weight.shape[1])
    except (AttributeError, RuntimeError):  # a torch without the operator; a type or a shape that this CPU can't pack
        return False


@cache
def can_multiply(dtype: torch.dtype) -> bool:
    """Whether this CPU has products of a type, with weights as they are; tried once."""
    return all(_multiplies(torch.ones(shape, dtype=dtype), shape[1]) for shape in _TRIED_SHAPES)


@cache
def _can_pack(dtype: torch.dtype) -> bool:
    return all(packs(torch.ones(shape, dtype=dtype)) for shape in _TRIED_SHAPES)


def _multiplies(weight: Tensor, num_columns: int) -> bool:
    """Whether there are products with a weight (out, in), packed or as it is, for few rows and for many."""
    try:
        for num_rows in _TRIED_ROWS:
            product(torch.ones(num_rows, num_columns, dtype=weight.dtype), weight)
    except (AttributeError, RuntimeError):  # as above
        return False
    return True
