"""Times a model's own products in half precision and in float32, in the forms that its weights would be kept in.

    rows          1    4   16  │  64  256
    stand for        decodes   │  prompts     each side counts half, and in it every number of rows alike

A product is one by each of the two shapes of matrices that most of the weights are in: of a mixture an expert's
projections up and down. Where few rows meet them, matrices take turns, so that no cache holds them; where many do, they
are cut, so that a turn stays short (`trials`). It decides nothing, and knows no files.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from math import inf, prod, sqrt

import torch
from torch import Tensor, nn

from gpu_worker.experts.matrices import DenseMatrix, Matrix, MatrixForm, PackedMatrix
from gpu_worker.experts.queues import PROJECTIONS, is_experts
from gpu_worker.machine.trials import is_clearly_less, least_times_s, one_thread
from gpu_worker.model.weights import WeightOptions, form_of_weights

DECODE_ROWS = (1, 4, 16)
PREFILL_ROWS = (64, 256)
ROWS = (*DECODE_ROWS, *PREFILL_ROWS)

_FILLED_UP = 4  # rows that a single one may be filled up to (`row_counts`)
_NUM_SHAPES = 2
_MOST_WEIGHTS = 1 << 22  # of a matrix: kernels do with more what they do with so many
_MOST_WORK = 1 << 26  # rows by weights of a matrix: a millisecond or two in the faster type
_MOST_BYTES = 1 << 26  # of all matrices of a shape and type: few caches hold them from one turn to the next
_LONGEST_S = 0.35  # of a trial; two, and making the matrices, take about a second where a type is very slow

Shape = tuple[int, int]
Way = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Trial:
    """What products took.

    Attributes:
        half_s: Seconds in half precision for each of ROWS, infinite where this CPU has no such product.
        float32_s: Seconds in float32.
    """

    half_s: tuple[float, ...]
    float32_s: tuple[float, ...]

    @property
    def slowdown(self) -> float:
        """How many times as long as in float32 half precision takes."""
        ratios = [half / single for half, single in zip(self.half_s, self.float32_s, strict=True)]
        num_decodes = len(DECODE_ROWS)
        return sqrt(_geometric_mean(ratios[:num_decodes]) * _geometric_mean(ratios[num_decodes:]))

    def __str__(self) -> str:
        """Microseconds by rows, half precision before float32."""
        times = zip(ROWS, self.half_s, self.float32_s, strict=True)
        return " ".join(f"{rows}:{half * 1e6:.0f}/{single * 1e6:.0f}" for rows, half, single in times)


def shortest(trials: Sequence[Trial]) -> Trial:
    """The shortest times of several trials."""
    half_s, float32_s = zip(*((trial.half_s, trial.float32_s) for trial in trials), strict=True)
    return Trial(tuple(map(min, zip(*half_s, strict=True))), tuple(map(min, zip(*float32_s, strict=True))))


def time_types(
    skeleton: nn.Module, half: torch.dtype, options: WeightOptions, num_trials: int = 2
) -> tuple[Trial, ...]:
    """Times products in a type of half precision and in float32, all in turns.

    Args:
        skeleton: The model without contents.
        half: The type.
        options: How weights are to be kept.
        num_trials: How many times.
    """
    with one_thread(), torch.inference_mode():
        shapes = largest_shapes(skeleton)
        of_half, of_float32 = (_products(skeleton, shapes, dtype, options) for dtype in (half, torch.float32))
        return tuple(_trial(of_half, of_float32) for _ in range(num_trials))


def largest_shapes(skeleton: nn.Module) -> dict[Shape, int]:
    """The two shapes (out, in) of matrices that most of a model's weights are in, and how many matrices have each."""
    numbers: Counter[Shape] = Counter()
    for module in skeleton.modules():
        if is_experts(module):
            for name in PROJECTIONS:
                if isinstance(fused := getattr(module, name, None), Tensor):  # (E, out, in), or (E, in, out)
                    out_features, in_features = fused.shape[:0:-1] if module.is_transposed else fused.shape[1:]
                    numbers[out_features, in_features] += len(fused)
        elif isinstance(module, nn.Linear):
            numbers[module.out_features, module.in_features] += 1
    by_weights = sorted(numbers, key=lambda shape: prod(shape) * numbers[shape], reverse=True)
    return {shape: numbers[shape] for shape in by_weights[:_NUM_SHAPES]}


@dataclass(frozen=True, slots=True)
class _Products:
    """Products of one type.

    Attributes:
        ways: For each of ROWS; None where this CPU has no such product.
        is_filled_up: Whether one row may be run with several.
    """

    ways: tuple[Way | None, ...]
    is_filled_up: bool


def _trial(*types: _Products) -> Trial:
    ways = [way for products in types for way in products.ways]
    found_s = iter(least_times_s([way for way in ways if way is not None], longest_s=_LONGEST_S))
    times_s = [inf if way is None else next(found_s) for way in ways]
    half_s, float32_s = times_s[: len(ROWS)], times_s[len(ROWS) :]
    for products, of_type in zip(types, (half_s, float32_s), strict=True):
        filled_up_s = of_type[ROWS.index(_FILLED_UP)]
        if products.is_filled_up and is_clearly_less(filled_up_s, of_type[0]):
            of_type[0] = filled_up_s
    return Trial(tuple(half_s), tuple(float32_s))


def _products(
    skeleton: nn.Module, shapes: Mapping[Shape, int], dtype: torch.dtype, options: WeightOptions
) -> _Products:
    form = _form(skeleton, dtype, options)
    is_slow_to_make = options.quantization not in ("none", "int8")  # and reads little
    most_bytes = 0 if is_slow_to_make else _MOST_BYTES
    turns: dict[Shape, Iterator[Matrix]] = {}
    ways: list[Way] = []
    for rows in ROWS:
        parts = []
        for (out_features, in_features), number in shapes.items():
            cut = (
                max(1, min(out_features, _MOST_WEIGHTS // in_features, _MOST_WORK // rows // in_features)),
                in_features,
            )
            if cut not in turns:
                most = most_bytes // (prod(cut) * dtype.itemsize) if rows in DECODE_ROWS else 1
                turns[cut] = cycle(_matrices(form, cut, dtype, max(1, min(number, most))))
            parts.append((torch.ones(rows, in_features, dtype=dtype), turns[cut]))
        ways.append(partial(_multiply, parts))
    is_packed = all(isinstance(next(turn), PackedMatrix) for turn in turns.values())
    return _Products(tuple(way if _runs(way) else None for way in ways), is_packed)


def _form(skeleton: nn.Module, dtype: torch.dtype, options: WeightOptions) -> MatrixForm:
    """What weights in a type are made into; linear layers of which each rank holds a slice stay as they are.

    Products of 8 bits take the same time whatever the type: what is not quantized, such as the head, decides there.
    """
    if options.is_sliced and not any(map(is_experts, skeleton.modules())):
        return DenseMatrix
    if options.quantization == "int8":
        options = replace(options, quantization="none")
    return form_of_weights(dtype, torch.device("cpu"), options)


def _matrices(form: MatrixForm, shape: Shape, dtype: torch.dtype, number: int) -> list[Matrix]:
    weight = torch.randn(shape).to(dtype)
    return [form(weight.clone(), None) for _ in range(number)]


def _multiply(parts: Sequence[tuple[Tensor, Iterator[Matrix]]]) -> None:
    for x, turn in parts:
        next(turn)(x)


def _runs(way: Way) -> bool:
    """Whether this CPU has the products; torch raises where it finds no kernel."""
    try:
        way()
    except RuntimeError:
        return False
    return True


def _geometric_mean(ratios: Sequence[float]) -> float:
    return float(prod(ratios) ** (1 / len(ratios)))
