"""Weight matrices of whole numbers in 8 bits, with a scale for each row, on CPUs, and how their products are run.

    few rows     torch's kernel, which reads the whole numbers as they are: half the bytes of bfloat16
    many rows    the whole numbers made floats first, in a place that all matrices share, and multiplied then

Up to how many rows the kernel is faster is measured at load (`fit_int8`): it takes rows four by four, and reads all
weights for each four. It takes inputs in bfloat16 only (those in float32 take it tens of times as long), so that other
inputs are rounded to that. What is quantized are weights alone: inputs keep their values whoever else is in a batch.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import linear

from gpu_worker.machine.onednn import can_multiply
from gpu_worker.machine.trials import is_clearly_less, least_times_s, one_thread

_LARGEST = 127
_LEAST_SCALE = 1e-30  # of a row of zeros
_ROW_BYTES = 64  # the kernel reads inputs in steps that must not cross such a border
_WIDTH = 16  # and weights 16 by 16: where a row is no multiple of that, beyond its end
_TRIED_ROWS = (4, 8, 12, 16, 24, 32, 64)
_LEAST_BYTES = 1 << 24  # what caches hold is multiplied otherwise, and too fast to be told from noise
_MOST_BYTES = 1 << 26


@dataclass(slots=True)
class Way:
    """How the products of a model's matrices are run.

    Attributes:
        most_direct: Rows up to which the kernel multiplies by whole numbers as they are.
        wide: Type that they are made into for more rows.
    """

    most_direct: int = 4
    wide: torch.dtype = field(default_factory=lambda: torch.bfloat16 if can_multiply(torch.bfloat16) else torch.float32)
    _place: Tensor = field(default_factory=lambda: torch.empty(0))

    def floats_of(self, rows: Tensor) -> Tensor:
        """Whole numbers (out, in) in the wide type, which are there until the next call."""
        if self._place.dtype is not self.wide or self._place.numel() < rows.numel():
            self._place = torch.empty(rows.numel(), dtype=self.wide)
        return self._place[: rows.numel()].view(rows.shape).copy_(rows)


class Int8Matrix:
    """A weight in 8 bits, with a scale for each row.

    Args:
        weight: The weight (out, in), in any strides; nothing of it is kept.
        bias: The bias (out,).
        way: How its products are run.

    Attributes:
        shape: Its (out, in).
        num_weights: How many that are.
        way: How its products are run.
    """

    __slots__ = ("_bias", "_dtype", "_rows", "_scales", "num_weights", "shape", "way")

    most_rows = 256

    def __init__(self, weight: Tensor, bias: Tensor | None, way: Way) -> None:
        self.shape = (weight.shape[0], weight.shape[1])
        self.num_weights = weight.numel()
        self.way = way
        self._dtype = weight.dtype
        precise = weight.to(torch.float32).contiguous()
        scales = (precise.abs().amax(1) / _LARGEST).clamp_min(_LEAST_SCALE).to(torch.bfloat16)  # (out,)
        self._scales = scales
        self._rows = (precise / scales[:, None]).round_().clamp_(-_LARGEST, _LARGEST).to(torch.int8)  # (out, in)
        self.set_bias(bias)

    def set_bias(self, bias: Tensor | None) -> None:
        """Gives it a bias (out,), or none."""
        self._bias = None if bias is None else bias.clone()

    def __call__(self, x: Tensor) -> Tensor:
        """Maps x (..., in) to (..., out)."""
        flat = x.reshape(-1, x.shape[-1])  # (N, in)
        y = self.direct(flat) if len(flat) <= self.way.most_direct and self.is_direct else self.widened(flat)
        y = y.to(x.dtype)
        return (y if self._bias is None else y + self._bias).view(*x.shape[:-1], -1)

    @property
    def is_direct(self) -> bool:
        """Whether the kernel multiplies by rows of such a width."""
        return self.shape[1] % _WIDTH == 0

    def direct(self, x: Tensor) -> Tensor:
        """Product of x (N, in) by the whole numbers as they are (N, out), in bfloat16."""
        narrow = x.to(torch.bfloat16).contiguous()
        if narrow.data_ptr() % _ROW_BYTES:
            narrow = narrow.clone()
        y: Tensor = torch.ops.aten._weight_int8pack_mm(narrow, self._rows, self._scales)
        return y

    def widened(self, x: Tensor) -> Tensor:
        """Product of x (N, in) by the whole numbers made floats (N, out), in the wide type."""
        wide = self.way.wide
        return linear(x.to(wide), self.way.floats_of(self._rows)).mul_(self._scales.to(wide))

    @property
    def weight(self) -> Tensor:
        """An empty tensor of the type that it was made of, in which its inputs and outputs are."""
        return torch.empty(0, dtype=self._dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of weight, scales and bias."""
        held = [self._rows, self._scales, *([] if self._bias is None else [self._bias])]
        return sum(tensor.nbytes for tensor in held)


class Int8:
    """Makes matrices in 8 bits, which all run their products alike."""

    def __init__(self) -> None:
        self._way = Way()

    def __call__(self, weight: Tensor, bias: Tensor | None) -> Int8Matrix:
        """Makes a matrix of a weight (out, in), in any strides, and a bias (out,)."""
        return Int8Matrix(weight, bias, self._way)


Times = Mapping[int, float]
"""Seconds of a product for each number of rows."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What products took: of the kernel, and with the whole numbers made floats of some types."""

    direct: Times
    widened: Mapping[torch.dtype, Times]


def fit_int8(matrices: Sequence[Int8Matrix]) -> Way | None:
    """Measures those of a model's matrices that most bytes are in, and has all of them run so.

    Returns:
        How; None if the model is too small to be measured, and is run as it was.
    """
    num_bytes: Counter[tuple[int, int]] = Counter()
    for matrix in matrices:
        if matrix.is_direct:
            num_bytes[matrix.shape] += matrix.nbytes
    shape, most_bytes = max(num_bytes.items(), key=lambda item: item[1], default=((0, 0), 0))
    if most_bytes < _LEAST_BYTES:
        return None
    alike = [matrix for matrix in matrices if matrix.shape == shape]
    with one_thread():
        way = choose_way([_trial(alike[: max(1, _MOST_BYTES // prod(shape))]) for _ in range(2)])
    for matrix in matrices:
        matrix.way = way
    return way


def choose_way(trials: Sequence[Trial]) -> Way:
    """Chooses up to how many rows the kernel multiplies, and in which type products of more are run.

    That is bfloat16 where this CPU has it, unless float32 is clearly faster in every trial; the kernel
    multiplies as far as it takes no longer than that.
    """
    most = max(trials[0].direct)
    narrow, precise = torch.bfloat16, torch.float32
    takes_float32 = narrow not in trials[0].widened or all(
        is_clearly_less(trial.widened[precise][most], trial.widened[narrow][most]) for trial in trials
    )
    wide = precise if takes_float32 else narrow
    most_direct = 0
    for count in sorted(trials[0].direct):
        if min(trial.direct[count] for trial in trials) > min(trial.widened[wide][count] for trial in trials):
            break
        most_direct = count
    return Way(most_direct, wide)


def _trial(matrices: Sequence[Int8Matrix]) -> Trial:
    """Times products, each by the matrix whose turn it is, so that none is in a cache yet."""
    turn = cycle(matrices)
    ways = {dtype: Way(0, dtype) for dtype in (torch.bfloat16, torch.float32) if can_multiply(dtype)}
    inputs = {count: torch.ones(count, matrices[0].shape[1], dtype=torch.bfloat16) for count in _TRIED_ROWS}

    def direct(x: Tensor) -> None:
        next(turn).direct(x)

    def widened(x: Tensor, way: Way) -> None:
        matrix = next(turn)
        matrix.way = way
        matrix.widened(x)

    calls: list[Callable[[], object]] = [partial(direct, x) for x in inputs.values()]
    calls += [partial(widened, x, way) for way in ways.values() for x in inputs.values()]
    times_s = iter(least_times_s(calls, longest_s=0.4))
    of_kernel = {count: next(times_s) for count in inputs}
    return Trial(of_kernel, {dtype: {count: next(times_s) for count in inputs} for dtype in ways})
