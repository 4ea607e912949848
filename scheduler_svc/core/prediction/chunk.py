"""How many tokens of a prompt one iteration takes along: a chunk. Pure arithmetic."""

from collections.abc import Callable

_GRAIN = 16  # tokens: a shorter chunk of a prompt is not worth taking along


def largest(most: int, fits: Callable[[int], bool]) -> int:
    """Returns the largest number up to `most` that fits, where all smaller ones do too; 0 if none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def most_that_fit(most: int, fits: Callable[[int], bool]) -> int:
    """Returns `most` if that many tokens fit, else the largest multiple of a chunk's grain that does, or 0."""
    if most < 1 or fits(most):
        return max(0, most)
    return _GRAIN * largest((most - 1) // _GRAIN, lambda count: fits(count * _GRAIN))
