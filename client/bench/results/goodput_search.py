"""Which number of best-effort clients to measure next, until the most that a server bears is found. Pure.

The numbers are doubled until one does not hold, then halved in between:

    0   1   2   4   8  [16]        held up to 8, 16 does not
                    8     12     16
                      10                ... until a number that holds stands beside one that does not

A level is one number of clients. It is measured again while what was counted speaks for both answers, a stated number
of times at most; then the share decides. Knows nothing of servers and of time.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from qllm.client.bench.results.interval import wilson

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Tally:
    """Latency-sensitive requests that were counted at one level.

    Attributes:
        num_met: Those that kept their targets.
    """

    num_windows: int = 0
    num_met: int = 0
    num_requests: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        """Counts both."""
        return Tally(
            self.num_windows + other.num_windows,
            self.num_met + other.num_met,
            self.num_requests + other.num_requests,
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """When a level holds, and when that is known well enough.

    Attributes:
        goal: Least share of requests that keep their targets.
        min_windows: Windows that each level is measured in.
        max_windows: Windows after which the share decides, sure or not.
    """

    goal: float
    min_windows: int
    max_windows: int

    def holds(self, tally: Tally) -> bool:
        """Whether enough of the requests kept their targets; of none nothing is known, which is not enough."""
        return tally.num_requests > 0 and tally.num_met >= self.goal * tally.num_requests - _ROUNDING

    def is_sure(self, tally: Tally) -> bool:
        """Whether the interval of the share lies on one side of the goal."""
        low, high = wilson(tally.num_met, tally.num_requests)
        return low >= self.goal or high < self.goal

    def is_decided(self, tally: Tally) -> bool:
        """Whether no more windows are wanted."""
        if tally.num_windows >= self.max_windows:
            return True
        return tally.num_windows >= self.min_windows and self.is_sure(tally)


@dataclass(frozen=True, slots=True)
class Step:
    """What to measure next."""

    num_be_clients: int
    num_windows: int


class GoodputSearch:
    """Says what to measure, and takes what it came to.

    Args:
        rule: When a level holds.
        max_be_clients: The greatest number of clients that is tried.
    """

    def __init__(self, rule: Rule, max_be_clients: int) -> None:
        self._rule = rule
        self._max_be_clients = max_be_clients
        self._tallies: dict[int, Tally] = {}
        self._level: int | None = 0

    @property
    def step(self) -> Step | None:
        """What to measure next; None once the search is over."""
        if self._level is None:
            return None
        tally = self._tallies.get(self._level, Tally())
        return Step(self._level, max(self._rule.min_windows - tally.num_windows, 1))

    @property
    def tallies(self) -> Mapping[int, Tally]:
        """What was counted at each level, in the order of measuring."""
        return self._tallies

    @property
    def held(self) -> int | None:
        """The most clients that held, below all that did not; None if none did."""
        first_failed = self.failed
        holding = (level for level, tally in self._decided() if self._rule.holds(tally))
        return max((level for level in holding if first_failed is None or level < first_failed), default=None)

    @property
    def failed(self) -> int | None:
        """The fewest clients that did not hold; None if all did."""
        return min((level for level, tally in self._decided() if not self._rule.holds(tally)), default=None)

    def take(self, tally: Tally) -> None:
        """Takes what windows of `step` came to; fewer or more of them than it asked for are fine, but for none."""
        assert self._level is not None, "the search is over"
        assert tally.num_windows > 0, "windows are what brings the search to an end"
        self._tallies[self._level] = self._tallies.get(self._level, Tally()) + tally
        if self._rule.is_decided(self._tallies[self._level]):
            self._level = self._next()

    def _decided(self) -> list[tuple[int, Tally]]:
        return [(level, tally) for level, tally in self._tallies.items() if self._rule.is_decided(tally)]

    def _next(self) -> int | None:
        held, failed = self.held, self.failed
        if held is None:
            return None
        if failed is None:
            return min(max(2 * held, 1), self._max_be_clients) if held < self._max_be_clients else None
        return (held + failed) // 2 if failed - held > 1 else None
