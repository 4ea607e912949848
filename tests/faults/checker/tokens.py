"""Says how the tokens that came differ from those that should have come. Pure."""

from collections.abc import Sequence
from enum import Enum


class Difference(Enum):
    """How they differ first."""

    MISSING = 1  # some were left out, and it went on behind them
    TWICE = 2  # some came again, and it went on behind them
    OTHER = 3


def compare(got: Sequence[int], expected: Sequence[int], *, is_whole: bool) -> Difference | None:
    """Returns how the first difference is best explained; None where there is none.

    Args:
        got: What came.
        expected: What should have come.
        is_whole: Whether all should have come; otherwise a beginning is right too.
    """
    got, expected = tuple(got), tuple(expected)
    at = next((i for i, (one, other) in enumerate(zip(got, expected, strict=False)) if one != other), None)
    if at is None:
        if len(got) > len(expected):
            return _explain(got, expected, len(expected))
        return Difference.MISSING if is_whole and len(got) < len(expected) else None
    return _explain(got, expected, at)


def _explain(got: tuple[int, ...], expected: tuple[int, ...], at: int) -> Difference:
    """Both are equal before `at`."""
    rest = got[at:]
    for num_left_out in range(1, len(expected) - at):
        if _begins_alike(rest, expected[at + num_left_out :]):
            return Difference.MISSING
    for num_again in range(1, at + 1):
        again = rest[:num_again]
        if again == expected[at - num_again : at][: len(again)] and _begins_alike(rest[num_again:], expected[at:]):
            return Difference.TWICE
    return Difference.OTHER


def _begins_alike(some: tuple[int, ...], others: tuple[int, ...]) -> bool:
    """Whether the others begin with some."""
    return some == others[: len(some)]
