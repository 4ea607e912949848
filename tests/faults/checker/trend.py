"""Says whether something grows: a straight line by least squares through means of windows, with its standard error.

Means of windows, because one sample is like the next one: the error of a line through the samples themselves would be
several times too small. Pure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Sample = tuple[float, float]
"""A time in seconds and a value."""

NUM_WINDOWS = 20
# In half an hour that is twelve minutes: so long a worker's heap grows to what its largest batches take.
_WARM_UP_SHARE = 0.4
_NUM_ERRORS = 3.0


@dataclass(frozen=True, slots=True)
class Trend:
    """A line through samples.

    Attributes:
        mean: Of the values.
        per_s: Growth of the value a second.
        error_per_s: Standard error of that; infinite where two points or fewer say nothing about it.
        duration_s: From the first point to the last.
    """

    mean: float
    per_s: float
    error_per_s: float
    duration_s: float

    @property
    def growth(self) -> float:
        """How much the line rises from its beginning to its end."""
        return self.per_s * self.duration_s

    def is_flat(self, allowed: float) -> bool:
        """Whether it rises by no more than is allowed, or so little that it can't be told from none."""
        is_told = self.per_s > _NUM_ERRORS * self.error_per_s
        return not (is_told and self.growth > allowed)


def fit(points: Sequence[Sample]) -> Trend:
    """Returns the line by least squares; raises ValueError where there are no two different times."""
    n = len(points)
    mean_t, mean_v = sum(t for t, _ in points) / max(1, n), sum(v for _, v in points) / max(1, n)
    spread = sum((t - mean_t) ** 2 for t, _ in points)
    if spread == 0:
        raise ValueError(f"got {n} points at one time, allowed are two at different times, or more")
    per_s = sum((t - mean_t) * (v - mean_v) for t, v in points) / spread
    squares = sum((v - mean_v - per_s * (t - mean_t)) ** 2 for t, v in points)
    error = math.sqrt(squares / (n - 2) / spread) if n > 2 else math.inf
    return Trend(mean_v, per_s, error, points[-1][0] - points[0][0])


def trend(samples: Sequence[Sample], num_windows: int = NUM_WINDOWS) -> Trend:
    """Returns the line through means of windows of equal length, the first two fifths of the time left out."""
    begin_s, end_s = samples[0][0], samples[-1][0]
    begin_s += _WARM_UP_SHARE * (end_s - begin_s)
    return fit(window_means([sample for sample in samples if sample[0] >= begin_s], num_windows))


def window_means(samples: Sequence[Sample], num_windows: int) -> list[Sample]:
    """Returns the mean time and value of each window that has a sample."""
    begin_s, length_s = samples[0][0], (samples[-1][0] - samples[0][0]) / num_windows
    windows: dict[int, list[Sample]] = {}
    for sample in samples:
        place = int((sample[0] - begin_s) / length_s) if length_s else 0
        windows.setdefault(min(place, num_windows - 1), []).append(sample)
    return [
        (sum(t for t, _ in window) / len(window), sum(v for _, v in window) / len(window))
        for _, window in sorted(windows.items())
    ]
