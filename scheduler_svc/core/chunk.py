"""How many tokens of a prompt one iteration takes along: a chunk. Pure arithmetic."""

from collections.abc import Callable

_GRAIN = 16  # tokens: a shorter chunk of a prompt is not worth taking along


def most_that_fit(most: int, fits: Callable[[int], bool]) -> int:
    """Returns `most` if that many tokens fit, else the largest multiple of a chunk's grain that does, or 0."""
    if most < 1 or fits(most):
        return max(0, most)
    low, high = 0, (most - 1) // _GRAIN
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle * _GRAIN) else (low, middle - 1)
    return low * _GRAIN
