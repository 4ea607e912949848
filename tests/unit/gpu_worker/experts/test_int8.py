"""Whole numbers in 8 bits are multiplied as they are by few rows, as floats by many, and stand for their weight."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gpu_worker.errors import ModelRefused
from gpu_worker.experts import int8
from gpu_worker.experts.int8 import Int8, Int8Matrix, Trial, Way, choose_way, fit_int8
from gpu_worker.model.loader import load_model
from gpu_worker.model.weights import WeightOptions
from tests.support.models.families import random_model
from tests.support.worker.worker_driver import Driver

HALF, FULL = torch.bfloat16, torch.float32
FEW_AND_MANY = (1, 3, 4, 5, 8, 40)


def error_of(y: Tensor, expected: Tensor) -> float:
    return float((y.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_rows", FEW_AND_MANY)
@pytest.mark.parametrize("shape", [(96, 128), (7, 48), (33, 20), (5, 1)])  # the last two are too narrow for the kernel
def test_products_are_within_the_step_of_the_weight(dtype: torch.dtype, num_rows: int, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(shape), torch.randn(shape[0])
    x = torch.randn(num_rows, shape[1]).to(dtype)
    y = Int8()(weight, bias.to(dtype))(x)
    assert y.dtype is dtype
    assert error_of(y, nn.functional.linear(x.float(), weight, bias)) < 0.02


@pytest.mark.parametrize("num_rows", FEW_AND_MANY)
def test_few_rows_and_many_are_multiplied_by_the_same_weight(num_rows: int) -> None:
    torch.manual_seed(0)
    matrix, x = Int8()(torch.randn(64, 128), None), torch.randn(num_rows, 128, dtype=HALF)
    matrix.way.wide = FULL
    assert error_of(matrix.direct(x), matrix.widened(x)) < 0.003  # a last bit of bfloat16


def test_rows_are_multiplied_alike_whoever_is_beside_them() -> None:
    torch.manual_seed(0)
    matrix, x = Int8()(torch.randn(64, 128), None), torch.randn(4, 128, dtype=HALF)
    together = matrix(x)
    assert all(torch.equal(matrix(x[row : row + 1])[0], together[row]) for row in range(4))


def test_inputs_of_any_shape_place_and_strides_are_taken() -> None:
    torch.manual_seed(0)
    matrix = Int8()(torch.randn(96, 128), None)
    held = torch.randn(2 * 3 * 128 + 1, dtype=HALF)
    askew = held[1:].view(2, 3, 128)  # at no border that the kernel reads by
    expected = matrix(askew.clone())
    assert expected.shape == (2, 3, 96)
    assert torch.equal(matrix(askew), expected)
    assert torch.equal(matrix(askew.transpose(0, 1)), expected.transpose(0, 1))
    weight = torch.randn(128, 96).t()
    for x in (askew, askew[:1, 0]):
        assert torch.equal(Int8()(weight, None)(x), Int8()(weight.contiguous(), None)(x))


def test_a_row_of_zeros_stays_one() -> None:
    weight = torch.randn(8, 32)
    weight[3] = 0
    for num_rows in FEW_AND_MANY:
        y = Int8()(weight, None)(torch.randn(num_rows, 32))
        assert not y[:, 3].any()
        assert bool(y.isfinite().all())


def test_a_weight_takes_a_byte_and_each_row_two_more() -> None:
    matrix = Int8()(torch.randn(96, 128), torch.randn(96))
    assert matrix.num_weights == 96 * 128
    assert matrix.nbytes == 96 * 128 + 2 * 96 + 4 * 96
    assert matrix.weight.dtype is FULL
    assert not matrix.weight.numel()


def trial(kernel: tuple[float, ...], half: tuple[float, ...] | None, full: tuple[float, ...]) -> Trial:
    """One of 4, 8 and 16 rows."""
    rows = (4, 8, 16)
    widened = {FULL: dict(zip(rows, full, strict=True))}
    if half is not None:
        widened[HALF] = dict(zip(rows, half, strict=True))
    return Trial(dict(zip(rows, kernel, strict=True)), widened)


@pytest.mark.parametrize(
    ("trials", "chosen"),
    [
        ([trial((2, 4, 8), (5, 5, 6), (9, 9, 9))], (8, HALF)),
        ([trial((2, 4, 8), (9, 9, 9), (9, 9, 9))], (16, HALF)),
        ([trial((2, 4, 8), (1, 1, 1), (9, 9, 9))], (0, HALF)),
        ([trial((2, 4, 8), None, (3, 5, 7))], (8, FULL)),
        ([trial((2, 4, 8), (9, 9, 30), (5, 5, 5))], (8, FULL)),
        ([trial((2, 4, 8), (5, 5, 5.5), (5, 5, 5))], (8, HALF)),  # no clear difference
        # A neighbour held a core in the first trial.
        ([trial((20, 40, 80), (5, 5, 6), (1, 1, 1)), trial((2, 4, 8), (5, 5, 6), (9, 9, 9))], (8, HALF)),
    ],
)
def test_the_kernel_runs_as_many_rows_as_it_is_faster_with(
    trials: list[Trial], chosen: tuple[int, torch.dtype]
) -> None:
    way = choose_way(trials)
    assert (way.most_direct, way.wide) == chosen


def test_a_models_own_matrices_are_measured_and_all_run_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    form = Int8()
    matrices = [form(torch.randn(shape), None) for shape in ((96, 128), (96, 128), (32, 20))]
    assert fit_int8(matrices) is None  # too small to be told from noise
    assert fit_int8([]) is None
    monkeypatch.setattr(int8, "_LEAST_BYTES", 1)
    way = fit_int8(matrices)
    assert way is not None
    assert all(matrix.way is way for matrix in matrices)
    assert way.most_direct in (0, *int8._TRIED_ROWS)
    assert way.wide in (HALF, FULL)


def test_floats_of_different_matrices_take_turns_in_one_place() -> None:
    way = Way(0, FULL)
    first, second = (Int8Matrix(torch.randn(shape), None, way) for shape in ((96, 128), (16, 32)))
    x, narrow = torch.randn(9, 128), torch.randn(9, 32)
    expected = first(x).clone(), second(narrow).clone()
    assert torch.equal(first(x), expected[0])
    assert torch.equal(second(narrow), expected[1])
    assert (
        first.way.floats_of(torch.ones(16, 32, dtype=torch.int8)).data_ptr()
        == way.floats_of(torch.ones(96, 128, dtype=torch.int8)).data_ptr()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_in_8_bits_is_proved_and_served(tmp_path: Path, dtype: torch.dtype) -> None:
    random_model("mixtral", dtype=dtype).save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), options=WeightOptions(quantization="int8"))
    assert loaded.facts.quantization == "int8"
    driver = Driver(loaded)
    story = driver.add([5, 6, 7, 8], 6)
    driver.finish(story)
    assert len(story.token_ids) == 6


def test_8_bits_are_refused_on_a_device_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="--quantization: got int8, which is for CPUs; allowed on cuda are none"):
        load_model(str(tmp_path), device="cuda", options=WeightOptions(quantization="int8"))
