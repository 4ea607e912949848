"""Summarizes many times in a few numbers. Pure.

A percentile is the nearest rank: the smallest of the times that at least so many percent of them do not exceed. It is
always a time that was measured, and the 99th of fewer than a hundred times is the longest one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Some times in milliseconds.

    Attributes:
        count: How many there are.
        num_lower_bounds: How many of them are of requests that were given up, and would have been longer.
    """

    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    num_lower_bounds: int = 0

    @classmethod
    def of(cls, times_ms: Sequence[float], num_lower_bounds: int = 0) -> "Spread | None":
        """Summarizes the times; None if there are none."""
        if not times_ms:
            return None
        ordered = sorted(times_ms)
        return cls(
            count=len(ordered),
            mean_ms=_rounded(math.fsum(ordered) / len(ordered)),
            p50_ms=_rounded(percentile(ordered, 50)),
            p90_ms=_rounded(percentile(ordered, 90)),
            p99_ms=_rounded(percentile(ordered, 99)),
            max_ms=_rounded(ordered[-1]),
            num_lower_bounds=num_lower_bounds,
        )


def percentile(ordered: Sequence[float], percent: int) -> float:
    """Returns the nearest-rank percentile of a sorted, non-empty sequence."""
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]


def _rounded(time_ms: float) -> float:
    return round(time_ms, 3)
