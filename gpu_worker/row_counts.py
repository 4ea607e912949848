"""Finds out with how many rows oneDNN multiplies fastest: on some CPUs a product of one row takes longer than one of four.

    rows       1    2    3    4    5    6    7    8
    us       452  527  369  330  335  327  427  466      (3584, 512) in float32 on an AMD EPYC, one thread
    run with   6    6    6    4    5    6    7    8

Its kernels are made for certain numbers of rows, which differ from CPU to CPU. What is lacking is filled up with zeros.
"""

import time
from collections import Counter
from collections.abc import Sequence

import torch

from gpu_worker.matrices import PackedMatrix

_MOST_ROWS = 8
_LEAST_BYTES = 1 << 25  # what caches hold is multiplied otherwise, and too fast to be told from noise
_MOST_BYTES = 1 << 27
_NUM_ROUNDS = 3
_WORTH = 0.95  # filling up must save this much: it takes some microseconds itself


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
    counts = choose_row_counts(_times_s(alike[: max(1, _MOST_BYTES // alike[0].nbytes)]))
    for matrix in matrices:
        matrix.row_counts = counts
    return counts


def choose_row_counts(times_s: Sequence[float]) -> tuple[int, ...]:
    """Chooses for each number of rows the number, no smaller, that takes least time, given the time of each (the first of 0)."""
    chosen = list(range(len(times_s)))
    for count in range(1, len(times_s)):
        fastest = min(range(count, len(times_s)), key=times_s.__getitem__)
        if times_s[fastest] < _WORTH * times_s[count]:
            chosen[count] = fastest
    return tuple(chosen)


def _times_s(matrices: Sequence[PackedMatrix]) -> list[float]:
    """Shortest time in which all of the matrices were multiplied by so many rows."""
    times_s = [float("inf")] * (_MOST_ROWS + 1)
    for _ in range(_NUM_ROUNDS):
        for count in range(1, _MOST_ROWS + 1):
            x = torch.ones(count, matrices[0].shape[1], dtype=matrices[0].weight.dtype)
            began_s = time.perf_counter()
            for matrix in matrices:
                matrix.product(x)
            times_s[count] = min(times_s[count], time.perf_counter() - began_s)
    return times_s
