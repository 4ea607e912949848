"""A mean and how sure it is: its standard error. Pure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of some values.

    Attributes:
        count: How many there are.
        error: Its standard error; None of one value, of which nobody can say.
    """

    value: float
    count: int
    error: float | None = None

    @classmethod
    def of(cls, values: Iterable[float]) -> "Mean | None":
        """Computes it; None if there are no values."""
        each = list(values)
        if not each:
            return None
        mean = math.fsum(each) / len(each)
        if len(each) == 1:
            return cls(mean, 1)
        variance = math.fsum((value - mean) ** 2 for value in each) / (len(each) - 1)
        return cls(mean, len(each), math.sqrt(variance / len(each)))

    def over(self, other: "Mean | None") -> "Mean | None":
        """Returns the ratio of two independent means, its error to the first order; None where that is not above 0."""
        if other is None or other.value <= 0:
            return None
        ratio = self.value / other.value
        if self.error is None or other.error is None or self.value == 0:
            return Mean(ratio, min(self.count, other.count))
        relative = math.hypot(self.error / self.value, other.error / other.value)
        return Mean(ratio, min(self.count, other.count), abs(ratio) * relative)

    def text(self, digits: int = 2) -> str:
        """Returns it as tables show it."""
        error = "" if self.error is None else f" ± {self.error:.{digits}f}"
        return f"{self.value:,.{digits}f}{error}"


def mean_value(values: Iterable[float]) -> float | None:
    """Returns the mean alone; None of no values."""
    mean = Mean.of(values)
    return None if mean is None else mean.value


def mean_of_ratios(pairs: Sequence[tuple[float, float]]) -> Mean | None:
    """Returns the mean of the ratios within pairs, such as what two ways came to in the same round.

    Pairs whose second value is not above 0 are left out; None if none is left.
    """
    return Mean.of(above / below for above, below in pairs if below > 0)
