"""Finds out with how many rows oneDNN multiplies fastest: on some CPUs a product of one row takes longer than of four.

    rows       1    2    3    4    5    6    7    8
    us       452  527  369  330  335  327  427  466      (3584, 512) in float32 on an AMD EPYC, one thread
    run with   6    6    6    4    5    6    7    8

Its kernels are made for certain numbers of rows, which differ from CPU to CPU. What is lacking is filled up with zeros.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle

import torch

from gpu_worker.experts.matrices import PackedMatrix
from gpu_worker.machine.trials import is_clearly_less, least_times_s, one_thread

_MOST_ROWS = 8
_LEAST_BYTES = 1 << 25  # what caches hold is multiplied otherwise, and too fast to be told from noise
_MOST_BYTES = 1 << 27


def fit_row_counts(matrices: Sequence[PackedMatrix]) -> tuple[int, ...]:
    """Measures those of a model's matrices that most bytes are in, and has all of them run so.

    Returns:
        For each number of rows from 0 on, with how many they are run; none if the model is too small to be measured.
    """
    num_bytes: Counter[tuple[int, int]] = Counter()
    for matrix in matrices:
        num_bytes[matrix.shape] += matrix.nbytes
    shape, most_bytes = max(num_bytes.items(), key=lambda item: item[1], default=((0, 0), 0))
    if most_bytes < _LEAST_BYTES:
        return ()
    alike = [matrix for matrix in matrices if matrix.shape == shape]
    ways = _ways(alike[: max(1, _MOST_BYTES // alike[0].nbytes)])
    with one_thread():  # which rows kernels like is the same with more
        counts = choose_row_counts(*([float("inf"), *least_times_s(ways)] for _ in range(2)))
    for matrix in matrices:
        matrix.row_counts = counts
    return counts


def choose_row_counts(*trials_s: Sequence[float]) -> tuple[int, ...]:
    """Chooses for each number of rows with how many to run: the fastest that is no smaller, or as many as there are.

    Filling up takes some microseconds itself, so it must save clearly more, and in every trial.

    Args:
        trials_s: Of each trial the time of each number of rows, the first of 0.
    """
    chosen = list(range(len(trials_s[0])))
    least_s = [min(times_s) for times_s in zip(*trials_s, strict=True)]
    for count in range(1, len(least_s)):
        fastest = min(range(count, len(least_s)), key=least_s.__getitem__)
        if all(is_clearly_less(times_s[fastest], times_s[count]) for times_s in trials_s):
            chosen[count] = fastest
    return tuple(chosen)


def _ways(matrices: Sequence[PackedMatrix]) -> list[Callable[[], object]]:
    """Products with 1, 2, 3, ... rows, each by the matrix whose turn it is, so that none is in a cache yet."""
    turn = cycle(matrices)
    weight = matrices[0].weight
    inputs = [torch.ones(count, matrices[0].shape[1], dtype=weight.dtype) for count in range(1, _MOST_ROWS + 1)]

    def multiply(x: torch.Tensor) -> None:
        next(turn).product(x)

    return [partial(multiply, x) for x in inputs]
