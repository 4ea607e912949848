"""What searches for goodput found, and their result files: the levels of each server, and its goodput.

Goodput is the most best-effort tokens a second that a server makes while enough latency-sensitive requests keep their
targets. Owns the files' schema; knows nothing of how levels are chosen and measured.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qllm.client.bench.load.measurement import Measurement, pool
from qllm.client.bench.load.record import RequestRow
from qllm.client.bench.load.target import TargetFacts
from qllm.client.bench.load.workload import BE, LS
from qllm.client.bench.results.goodput_search import Rule, Tally
from qllm.client.bench.results.interval import wilson
from qllm.client.bench.results.result_file import Provenance, build, complete, read_values
from qllm.client.bench.results.spread import Spread
from qllm.client.bench.results.summary import Attainment, Objective, Targets, summarize

GOODPUT_SCHEMA = "qllm-bench-goodput/1"


@dataclass(frozen=True, slots=True)
class Level:
    """A number of best-effort clients beside the latency-sensitive requests.

    Attributes:
        seconds: Length of its windows in all.
        attainment: The latency-sensitive requests of its windows.
        low: Least share of requests that keep their targets which the counts speak for; `high` is the greatest.
        holds: Whether enough of them do.
        is_sure: Whether the counts leave no doubt about that.
        is_decided: Whether it was measured to the end.
        be_tokens_per_s_error: Standard error of `be_tokens_per_s` between windows; None with one window.
        tokens_per_s: Output tokens of both classes.
        ttft: Times to the first token of latency-sensitive requests.
        tpot: Their mean times per further token.
        lag_p99_ms: How late this process sent requests.
        failures: Failed requests of both classes, by kind.
    """

    num_be_clients: int
    num_windows: int
    seconds: float
    attainment: Attainment
    low: float
    high: float
    holds: bool
    is_sure: bool
    is_decided: bool
    be_tokens_per_s: float
    be_tokens_per_s_error: float | None
    tokens_per_s: float
    ttft: Spread | None
    tpot: Spread | None
    lag_p99_ms: float | None
    failures: Mapping[str, int]

    @classmethod
    def of(cls, num_be_clients: int, windows: Sequence[Measurement], objective: Objective, rule: Rule) -> "Level":
        """Sums up one window or more."""
        summary = summarize(pool(windows), {LS: Objective(), BE: Objective()})
        attainment = Attainment.of([row for window in windows for row in ls_rows(window)], objective)
        tally = tally_of(windows, objective)
        low, high = wilson(tally.num_met, tally.num_requests)
        return cls(
            num_be_clients=num_be_clients,
            num_windows=len(windows),
            seconds=summary.seconds,
            attainment=attainment,
            low=round(low, 4),
            high=round(high, 4),
            holds=rule.holds(tally),
            is_sure=rule.is_sure(tally),
            is_decided=rule.is_decided(tally),
            be_tokens_per_s=summary.be.tokens_per_s,
            be_tokens_per_s_error=_standard_error([one.throughput.num_tokens[BE] / one.seconds for one in windows]),
            tokens_per_s=summary.tokens_per_s,
            ttft=summary.ls.ttft,
            tpot=summary.ls.tpot,
            lag_p99_ms=summary.lag_p99_ms,
            failures=summary.failures,
        )

    @property
    def share(self) -> float | None:
        """Which share of the latency-sensitive requests kept both targets; None if there were none."""
        return self.attainment.num_met / self.attainment.num_requests if self.attainment.num_requests else None


@dataclass(frozen=True, slots=True)
class ServerGoodput:
    """What the search found on one server.

    Attributes:
        label: What it is called in comparisons.
        target: The server.
        is_interrupted: Whether the user ended it early.
        goal: Least share of latency-sensitive requests that are to keep their targets.
        targets: What each of those is to keep.
        objective: What that came to on this server.
        idle_ttft: Times to the first token on the idle server.
        idle_tpot: Times per further token there.
        levels: What was measured, in that order.
        messages: One message for each kind of failure.
    """

    label: str
    provenance: Provenance
    target: TargetFacts
    is_interrupted: bool
    goal: float
    targets: Targets
    objective: Objective
    idle_ttft: Spread | None
    idle_tpot: Spread | None
    levels: tuple[Level, ...]
    messages: Mapping[str, str]

    @property
    def best(self) -> Level | None:
        """The level that holds with the most best-effort tokens a second; None if no level holds."""
        holding = [level for level in self.levels if level.holds and level.is_decided]
        return max(holding, key=lambda level: level.be_tokens_per_s, default=None)

    @property
    def tokens_per_s(self) -> float:
        """The goodput: 0 where no level holds."""
        return self.best.be_tokens_per_s if self.best else 0.0

    @property
    def failed(self) -> Level | None:
        """The level with the fewest clients that does not hold; None if all do."""
        failing = [level for level in self.levels if not level.holds and level.is_decided]
        return min(failing, key=lambda level: level.num_be_clients, default=None)

    @property
    def alone(self) -> Level | None:
        """The level without best-effort clients; None if it was not measured."""
        return next((level for level in self.levels if level.num_be_clients == 0), None)


def tally_of(windows: Sequence[Measurement], objective: Objective) -> Tally:
    """Counts the latency-sensitive requests of some windows."""
    attainment = Attainment.of([row for window in windows for row in ls_rows(window)], objective)
    return Tally(len(windows), attainment.num_met, attainment.num_requests)


def ls_rows(measurement: Measurement) -> list[RequestRow]:
    """Returns the latency-sensitive requests of a window."""
    return [row for row in measurement.rows if row.request_class is LS]


def to_json(servers: Sequence[ServerGoodput]) -> dict[str, Any]:
    """Returns what a result file holds; each server with its goodput, which its levels imply."""
    return {
        "schema": GOODPUT_SCHEMA,
        "servers": [asdict(one) for one in servers],
        "goodput_tokens_per_s": {one.label: one.tokens_per_s for one in servers},
    }


def read_goodputs(path: Path) -> list[ServerGoodput]:
    """Reads a result file.

    Raises:
        BadFile: It is not there, or not a complete result of a search.
    """
    values = read_values(path, (GOODPUT_SCHEMA,))
    with complete(path):
        found: list[ServerGoodput] = build(tuple[ServerGoodput, ...], values["servers"])
        return list(found)


def _standard_error(rates: Sequence[float]) -> float | None:
    return round(statistics.stdev(rates) / math.sqrt(len(rates)), 3) if len(rates) > 1 else None
