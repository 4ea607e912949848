"""Turns the answers of a load into the few numbers that are shown. Pure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from client import GenerationResult


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, median and 99th percentile of some times, in milliseconds."""

    count: int
    mean_ms: float
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, times_s: Iterable[float]) -> "Spread":
        """Summarizes times given in seconds; of none, all is NaN."""
        ordered = sorted(time_s * 1e3 for time_s in times_s)
        if not ordered:
            return cls(0, math.nan, math.nan, math.nan)
        return cls(len(ordered), sum(ordered) / len(ordered), _percentile(ordered, 50), _percentile(ordered, 99))


def ttft(answers: Iterable[GenerationResult]) -> Spread:
    """Summarizes times to first token."""
    return Spread.of(answer.ttft_s for answer in answers if answer.ttft_s is not None)


def turnaround(answers: Iterable[GenerationResult]) -> Spread:
    """Summarizes times from request to last token."""
    return Spread.of(answer.e2e_s for answer in answers)


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """Returns the nearest-rank percentile of a sorted, non-empty sequence."""
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]
