"""Decides the type that `--dtype auto` computes in: the checkpoint's own, or on some CPUs float32.

A CPU without products in half precision takes several times as long with them as in float32, although it reads half of
the bytes. Products of the model's own sizes are tried in both types, in the forms that their weights would be kept in:

    rows                        1       8      64     geometric mean
    bfloat16 / float32      0.47x    3.1x     17x     2.9x            (3584, 512) on an AMD EPYC with AVX2, one thread

Float32 is chosen where it is clearly faster, twice (`trials`), and fits into the memory
that there is. It knows no files.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpu_worker.experts.matrices import Matrix
from gpu_worker.experts.queues import PROJECTIONS, is_experts
from gpu_worker.machine.control_group import free_memory_bytes
from gpu_worker.machine.trials import is_clearly_less, least_times_s, one_thread
from gpu_worker.model.weights import WeightOptions, form_of_weights

logger = logging.getLogger(__name__)

_ROWS = (1, 8, 64)  # a decode, several, a chunk of a prompt
_MOST_WEIGHTS = 1 << 22  # of a matrix that is tried: kernels do with more what they do with so many
_MOST_BYTES = 1 << 27  # of all that are tried: no cache holds them from one turn to the next
_MOST_MEMORY = 0.8  # what weights may take of the memory that is free; caches and what is computed need the rest
_MEMORY = Path("/proc/meminfo")
_GIB = 1 << 30


def choose_type(
    skeleton: nn.Module, own: torch.dtype | None, options: WeightOptions, device: str, *, is_quantized: bool
) -> WeightOptions:
    """Returns the options with the type to compute in, and logs it; what was asked for is kept.

    Args:
        skeleton: The model without contents.
        own: The checkpoint's type; None if it is not known.
        options: How weights are to be kept.
        device: Where they are to lie.
        is_quantized: Whether the checkpoint is quantized already.
    """
    if options.dtype != "auto":
        logger.info("dtype=%s from=--dtype checkpoint=%s", options.dtype, _name(own))
        return options
    is_half = own is torch.bfloat16 or own is torch.float16
    if own is None or not is_half or device != "cpu" or is_quantized or options.is_sliced:  # ranks must do all alike
        logger.info("dtype=%s from=checkpoint", _name(own))
        return options
    measured = _measure(skeleton, own, options)
    if not measured.float32_is_faster:
        logger.info("dtype=%s from=measurement %s", _name(own), measured.figures)
        return options
    num_bytes, free_bytes = _bytes_in_float32(skeleton, options), free_bytes_of_memory()
    if num_bytes > _MOST_MEMORY * free_bytes:
        sizes = f"{num_bytes / _GIB:.1f} GiB of weights, {free_bytes / _GIB:.1f} GiB of free memory"
        logger.warning(
            "dtype=%s from=memory: float32 is faster but does not fit: %s; %s", _name(own), sizes, measured.figures
        )
        return options
    logger.info("dtype=float32 from=measurement %s", measured.figures)
    return replace(options, dtype="float32")


def free_bytes_of_memory() -> int:
    """Returns the bytes that this process may still take, by the machine's memory and its control group's limit."""
    lines = _MEMORY.read_text().splitlines() if _MEMORY.is_file() else []
    available = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    of_group = free_memory_bytes()
    return min([*available, *([] if of_group is None else [of_group])], default=1 << 62)


@dataclass(frozen=True, slots=True)
class _Measured:
    """What trials said.

    Attributes:
        float32_is_faster: Whether it clearly is, in every trial.
        figures: The times, for the log.
    """

    float32_is_faster: bool
    figures: str


def _measure(skeleton: nn.Module, own: torch.dtype, options: WeightOptions) -> _Measured:
    trials = [_times_s(skeleton, own, options) for _ in range(2)]
    is_faster = all(is_clearly_less(1.0, _mean_ratio(*times_s)) for times_s in trials)
    own_s, wide_s = ([min(times_s) for times_s in zip(*of_type, strict=True)] for of_type in zip(*trials, strict=True))
    times = zip(_ROWS, own_s, wide_s, strict=True)
    in_us = " ".join(f"{rows}:{narrow * 1e6:.0f}/{wide * 1e6:.0f}" for rows, narrow, wide in times)
    ratio = f"{_name(own)}/float32={_mean_ratio(own_s, wide_s):.2f}"
    return _Measured(is_faster, f"checkpoint={_name(own)} {ratio} us_by_rows={in_us}")


def _times_s(skeleton: nn.Module, own: torch.dtype, options: WeightOptions) -> tuple[list[float], list[float]]:
    """Seconds of a product for each number of rows, in the checkpoint's type and in float32."""
    shape, number = _commonest_shape(skeleton)
    ways = [way for dtype in (own, torch.float32) for way in _ways(shape, number, dtype, options)]
    with one_thread(), torch.inference_mode():
        times_s = least_times_s(ways)
    return times_s[: len(_ROWS)], times_s[len(_ROWS) :]


def _ways(
    shape: tuple[int, int], number: int, dtype: torch.dtype, options: WeightOptions
) -> Iterator[Callable[[], Tensor]]:
    """Products with each number of rows, every time by the next of several matrices."""
    form = form_of_weights(dtype, torch.device("cpu"), options)
    number = max(1, min(number, _MOST_BYTES // (prod(shape) * dtype.itemsize)))
    turn = cycle([form(torch.randn(shape).to(dtype), None) for _ in range(number)])

    def multiply(x: Tensor) -> Tensor:
        matrix: Matrix = next(turn)
        return matrix(x)

    return (partial(multiply, torch.randn(rows, shape[1]).to(dtype)) for rows in _ROWS)


def _commonest_shape(skeleton: nn.Module) -> tuple[tuple[int, int], int]:
    """The shape (out, in) of the matrices with most of a model's weights, cut to what is tried, and their number."""
    numbers: Counter[tuple[int, int]] = Counter()
    for module in skeleton.modules():
        if is_experts(module):
            for name in PROJECTIONS:
                if isinstance(fused := getattr(module, name, None), Tensor):  # (E, out, in), or (E, in, out)
                    out_features, in_features = fused.shape[:0:-1] if module.is_transposed else fused.shape[1:]
                    numbers[out_features, in_features] += len(fused)
        elif isinstance(module, nn.Linear):
            numbers[module.out_features, module.in_features] += 1
    (out_features, in_features), number = max(
        numbers.items(), key=lambda item: prod(item[0]) * item[1], default=((1, 1), 1)
    )
    return (max(1, min(out_features, _MOST_WEIGHTS // in_features)), in_features), number


def _bytes_in_float32(skeleton: nn.Module, options: WeightOptions) -> int:
    """What the weights take at most; those that are quantized while they are read a quarter."""
    num_weights = sum(parameter.numel() for parameter in skeleton.parameters())
    return num_weights * (4 if options.quantization == "none" else 1)


def _mean_ratio(own_s: list[float], wide_s: list[float]) -> float:
    """How many times as long as in float32 the checkpoint's type takes: the geometric mean over the numbers of rows."""
    return float(prod(narrow / wide for narrow, wide in zip(own_s, wide_s, strict=True)) ** (1 / len(own_s)))


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
