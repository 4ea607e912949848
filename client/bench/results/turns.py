"""What several ways came to that were measured in turns, round after round: one number for each figure. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from qllm.client.bench.results.mean import Mean, mean_of_ratios


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a measurement.

    Attributes:
        name: Its name in result files; it ends with its unit.
        title: What tables call it.
        digits: Digits after the point there.
        is_compared: Whether it is of interest how many times larger it is another way.
    """

    name: str
    title: str
    digits: int = 1
    is_compared: bool = False


Figures = Mapping[str, float | None]
"""The numbers of one measurement by their figures' names; None where there is none."""


@dataclass(slots=True)
class Turns:
    """What each way came to, in the order of its turns; the n-th turn of every way belongs to the n-th round."""

    by_label: dict[str, list[Figures]] = field(default_factory=dict)

    def add(self, label: str, figures: Figures) -> None:
        """Notes one turn."""
        self.by_label.setdefault(label, []).append(figures)

    @property
    def labels(self) -> Sequence[str]:
        """The ways, in the order of their first turns."""
        return list(self.by_label)

    def mean(self, label: str, name: str) -> Mean | None:
        """Returns the mean of a figure over the turns of a way; None if it has none."""
        values = (figures.get(name) for figures in self.by_label[label])
        return Mean.of(value for value in values if value is not None)

    def ratio(self, label: str, base: str, name: str) -> Mean | None:
        """Returns the mean over rounds of a figure of one way over that of another in the same round."""
        pairs = zip(self.by_label[label], self.by_label[base], strict=False)
        values = ((above.get(name), below.get(name)) for above, below in pairs)
        return mean_of_ratios([(above, below) for above, below in values if above is not None and below is not None])

    def to_json(self, figures: Sequence[Figure], base: str) -> dict[str, Any]:
        """Returns all turns, the means of all figures, and the ratios of the compared ones to those of one way."""
        others = [label for label in self.by_label if label != base and base in self.by_label]
        return {
            "turns": self.by_label,
            "means": {
                label: {one.name: _plain(self.mean(label, one.name)) for one in figures} for label in self.by_label
            },
            "ratios": {
                label: {one.name: _plain(self.ratio(label, base, one.name)) for one in figures if one.is_compared}
                for label in others
            },
            "ratios_are_over": base,
        }


def _plain(mean: Mean | None) -> dict[str, Any] | None:
    return None if mean is None else asdict(mean)
