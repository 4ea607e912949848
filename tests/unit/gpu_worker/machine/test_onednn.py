"""What oneDNN has no product for on a CPU goes another way, and gives the same."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from gpu_worker.attention import choice as attention_choice
from gpu_worker.attention.choice import products_pay
from gpu_worker.attention.cpu import attend_fused, attend_in_tiles
from gpu_worker.experts.matrices import DenseMatrix, PackedMatrix, Packing
from gpu_worker.machine import onednn
from tests.support.channel.control_channel import ROOT, python_path

MISSING = "could not create a primitive descriptor for the inner product forward propagation primitive"


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """Takes away the products of those weights that a function names, and what is remembered of what there was."""
    caches = (onednn.can_multiply, onednn._can_pack, attention_choice._products_win)
    real = onednn.product

    def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if request.param(weight):
            raise RuntimeError(MISSING)
        return real(x, weight, bias)

    monkeypatch.setattr(onednn, "product", product)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def _all(_: Tensor) -> bool:
    return True


def _of_five_rows(weight: Tensor) -> bool:
    return weight.shape[0] == 5


@pytest.mark.parametrize("missing", [_all], indirect=True)
@pytest.mark.usefixtures("missing")
def test_a_type_without_products_is_neither_packed_nor_attended_by_products() -> None:
    assert not onednn.can_multiply(torch.float32)
    assert not onednn.can_pack(torch.float32, torch.device("cpu"))
    query = torch.ones(8, 300, 64)
    assert not products_pay(query, 1, 1000, 4, 64)
    assert not products_pay(query, 256, 256, 4, 64)


@pytest.mark.parametrize("missing", [_all], indirect=True)
@pytest.mark.usefixtures("missing")
def test_tiles_go_by_plain_products_where_there_are_no_others() -> None:
    q, k, v = torch.randn(4, 40, 16), torch.randn(2, 40, 16), torch.randn(2, 40, 8)
    fused = attend_fused(q, k, v, 0.3, causal=True)
    torch.testing.assert_close(attend_in_tiles(q, k, v, 0.3, None), fused)


@pytest.mark.parametrize("missing", [_of_five_rows], indirect=True)
@pytest.mark.usefixtures("missing")
def test_a_shape_without_product_stays_dense_and_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    form, x = Packing(), torch.randn(3, 6)
    weights = [torch.randn(num_rows, 6) for num_rows in (5, 7, 5, 7)]
    matrices = [form(weight, None) for weight in weights]
    assert [type(matrix) for matrix in matrices] == [DenseMatrix, PackedMatrix, DenseMatrix, PackedMatrix]
    for weight, matrix in zip(weights, matrices, strict=True):
        torch.testing.assert_close(matrix(x), linear(x, weight))
    monkeypatch.setattr(onednn, "packs", None)  # would raise if it were asked again
    form(torch.randn(5, 6), None)


def test_float32_is_packed_on_every_cpu() -> None:
    assert onednn.can_pack(torch.float32, torch.device("cpu"))
    assert onednn.can_multiply(torch.float32)


_MULTIPLY = """
import torch
from gpu_worker.machine import onednn
from gpu_worker.attention.cpu import attend_fused, attend_in_tiles
from gpu_worker.experts.matrices import DenseMatrix, Packing

torch.set_num_threads(1)
assert not onednn.can_multiply(torch.bfloat16)
assert onednn.can_multiply(torch.float32)
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    q, k, v = (torch.randn(heads, 140, 16).to(dtype) for heads in (4, 2, 2))
    fused = attend_fused(q, k, v, 0.2, causal=True)
    torch.testing.assert_close(attend_in_tiles(q, k, v, 0.2, None), fused, rtol=0, atol=3e-2)
    weight, x = torch.randn(24, 16).to(dtype), torch.randn(5, 16).to(dtype)
    product = Packing()(weight, None)(x)
    torch.testing.assert_close(product, DenseMatrix(weight, None)(x), rtol=0, atol=3e-2)
"""


def test_a_cpu_with_avx2_alone_multiplies_in_every_type() -> None:
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    environment = {**os.environ, **python_path(), **limits}
    command = [sys.executable, "-c", _MULTIPLY]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
