"""What oneDNN has no product for on a CPU goes another way, and gives the same."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from gpu_worker import attention_choice, onednn
from gpu_worker.attention_choice import products_pay
from gpu_worker.cpu_attention import attend_fused, attend_in_tiles
from gpu_worker.matrices import DenseMatrix, PackedMatrix, Packing
from tests.control_channel import ROOT, python_path

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


_RUN_IN_BFLOAT16 = """
import torch
from torch.nn.functional import scaled_dot_product_attention
from gpu_worker.cpu_attention import attend_in_tiles
from gpu_worker.loader import adopt_model
from tests.families import random_model
from tests.worker_driver import Driver, random_prompts

q, k, v = (torch.randn(heads, 140, 16).bfloat16() for heads in (4, 2, 2))
plain = scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, scale=0.2, enable_gqa=True)[0]
torch.testing.assert_close(attend_in_tiles(q, k, v, 0.2, None), plain, rtol=0, atol=3e-2)
driver = Driver(adopt_model(random_model("mixtral").bfloat16(), name="narrow"))
stories = [driver.add(prompt, 4) for prompt in random_prompts((150, 9))]
driver.finish(*stories)
assert [len(story.token_ids) for story in stories] == [4, 4]
"""


def test_a_bfloat16_model_runs_on_a_cpu_without_products_of_it() -> None:
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    environment = {**os.environ, **python_path(), **limits}
    command = [sys.executable, "-c", _RUN_IN_BFLOAT16]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
