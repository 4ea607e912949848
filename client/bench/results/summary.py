"""The figures of a measurement. Pure; every definition is in a docstring here or in `measurement` and `spread`."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from qllm.client.bench.load.measurement import Measurement
from qllm.client.bench.load.record import RequestRow
from qllm.client.bench.load.workload import BE, LS
from qllm.client.bench.results.spread import Spread, percentile
from qllm.client.messages import RequestClass

MAX_LAG_MS = 10.0


@dataclass(frozen=True, slots=True)
class Objective:
    """What a request must keep to count as good; None where nothing is asked."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None

    @property
    def is_given(self) -> bool:
        """Whether anything is asked."""
        return self.ttft_ms is not None or self.tpot_ms is not None

    def is_met(self, row: RequestRow) -> bool:
        """Whether the whole answer came, its first token and its mean time per token in time."""
        return self.meets_ttft(row) and self.meets_tpot(row)

    def meets_ttft(self, row: RequestRow) -> bool:
        """Whether the first token came in time, of a request that did not fail."""
        in_time = self.ttft_ms is None or (row.ttft_ms is not None and row.ttft_ms <= self.ttft_ms)
        return in_time and not row.is_failed

    def meets_tpot(self, row: RequestRow) -> bool:
        """Whether the whole answer came, its mean time per token in time."""
        return row.is_done and (self.tpot_ms is None or row.tpot_ms is None or row.tpot_ms <= self.tpot_ms)


@dataclass(frozen=True, slots=True)
class Targets:
    """What latency-sensitive requests are to keep while other work is done.

    Attributes:
        ttft_to_idle: Longest time to the first token, in times of the idle server's mean.
        tpot_ms: Longest mean time per further token.
    """

    ttft_to_idle: float = 1.5
    tpot_ms: float = 50.0

    def objective(self, idle: Iterable[RequestRow]) -> Objective:
        """Returns what that comes to where these requests met an idle server; without any, first tokens are free."""
        spread = ttft_spread(idle)
        return Objective(None if spread is None else self.ttft_to_idle * spread.mean_ms, self.tpot_ms)


@dataclass(frozen=True, slots=True)
class Attainment:
    """How many of some requests kept an objective; failed and unfinished ones are among those that did not.

    Attributes:
        num_met: Those that kept all of it.
        num_ttft_met: Those whose first token came in time.
        num_tpot_met: Those whose whole answer came, at no more than the time per token.
    """

    num_requests: int
    num_met: int
    num_ttft_met: int
    num_tpot_met: int

    @classmethod
    def of(cls, rows: Sequence[RequestRow], objective: Objective) -> "Attainment":
        """Counts."""
        return cls(
            num_requests=len(rows),
            num_met=sum(map(objective.is_met, rows)),
            num_ttft_met=sum(map(objective.meets_ttft, rows)),
            num_tpot_met=sum(map(objective.meets_tpot, rows)),
        )


@dataclass(frozen=True, slots=True)
class Goodput:
    """Requests of the window that met the objective.

    Attributes:
        attainment: Their share of all requests of the window, failed and unfinished ones included.
        requests_per_s: Their rate.
        tokens_per_s: The rate of their tokens.
        ttft_attainment: The share of those that met its first part; None in older results.
        tpot_attainment: Likewise for its second part.
    """

    attainment: float
    requests_per_s: float
    tokens_per_s: float
    ttft_attainment: float | None = None
    tpot_attainment: float | None = None


@dataclass(frozen=True, slots=True)
class ClassSummary:
    """One class in the window.

    Attributes:
        num_requests: Requests of the window; each of them is done, failed or unfinished.
        num_unfinished: Those that were given up when the drain was over, or when the user interrupted.
        ttft: Times to first token, from the intended time. One that was given up without a token counts with the time
            that it had waited, as a lower bound. Failed requests do not count.
        turnaround: Times to the end of the answer, likewise.
        tpot: Mean times per token after the first, of complete answers.
        gap: Times between two chunks of an answer.
        queue: Waits before any work, as the server says; None if it does not say.
        tokens_per_chunk: Mean tokens that come together.
        tokens_per_s: Tokens that came within the window, by its length.
        requests_per_s: Complete answers that ended within the window, by its length.
        goodput: None if there is no objective.
    """

    num_requests: int
    num_done: int
    num_failed: int
    num_unfinished: int
    ttft: Spread | None
    tpot: Spread | None
    gap: Spread | None
    turnaround: Spread | None
    queue: Spread | None
    tokens_per_chunk: float | None
    tokens_per_s: float
    requests_per_s: float
    goodput: Goodput | None


@dataclass(frozen=True, slots=True)
class Ratios:
    """Loaded over idle, each figure by its own kind: mean by mean, 99th percentile by 99th percentile."""

    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, loaded: Spread | None, idle: Spread | None) -> "Ratios | None":
        """Divides; None where one side was not measured."""
        if loaded is None or idle is None or idle.p50_ms <= 0:
            return None
        return cls(
            mean=round(loaded.mean_ms / idle.mean_ms, 4),
            p50=round(loaded.p50_ms / idle.p50_ms, 4),
            p90=round(loaded.p90_ms / idle.p90_ms, 4),
            p99=round(loaded.p99_ms / idle.p99_ms, 4),
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """All figures of a measurement.

    Attributes:
        seconds: Length of the window.
        idle_ttft: Latency-sensitive requests one by one on the idle server; None if there was no baseline.
        idle_turnaround: Likewise.
        ttft_to_idle: Latency-sensitive times to first token, loaded over idle.
        turnaround_to_idle: Likewise for turnaround.
        tokens_per_s: Output tokens of both classes that came within the window, by its length.
        finished_tokens_per_s: All tokens of the requests that ended within the window, by its length.
        prompt_tokens_per_s: Prompt tokens of the requests whose first token came within the window, by its length.
        requests_per_s: Complete answers of both classes within the window, by its length.
        lag_p99_ms: How late this process sent requests, 99th percentile. Above `MAX_LAG_MS` the
            load was not the one asked for.
        failures: Failed requests of the window, by kind.
        idle_tpot: As `idle_ttft`, times per further token; None in older results too.
    """

    seconds: float
    ls: ClassSummary
    be: ClassSummary
    idle_ttft: Spread | None
    idle_turnaround: Spread | None
    ttft_to_idle: Ratios | None
    turnaround_to_idle: Ratios | None
    tokens_per_s: float
    finished_tokens_per_s: float
    prompt_tokens_per_s: float
    requests_per_s: float
    lag_p99_ms: float | None
    failures: Mapping[str, int]
    idle_tpot: Spread | None = None


def summarize(measurement: Measurement, objectives: Mapping[RequestClass, Objective]) -> Summary:
    """Computes all figures; each class has an objective of its own."""
    ls, be = (_summarize_class(measurement, name, objectives[name]) for name in (LS, BE))
    idle_ttft, idle_turnaround = ttft_spread(measurement.idle), turnaround_spread(measurement.idle)
    came, seconds = measurement.throughput, measurement.seconds
    lags_ms = sorted(row.lag_ms for row in measurement.rows)
    return Summary(
        seconds=round(seconds, 3),
        ls=ls,
        be=be,
        idle_ttft=idle_ttft,
        idle_turnaround=idle_turnaround,
        ttft_to_idle=Ratios.of(ls.ttft, idle_ttft),
        turnaround_to_idle=Ratios.of(ls.turnaround, idle_turnaround),
        tokens_per_s=_rate(sum(came.num_tokens.values()), seconds),
        finished_tokens_per_s=_rate(sum(came.num_finished_tokens.values()), seconds),
        prompt_tokens_per_s=_rate(sum(came.num_prompt_tokens.values()), seconds),
        requests_per_s=_rate(sum(came.num_done.values()), seconds),
        lag_p99_ms=percentile(lags_ms, 99) if lags_ms else None,
        failures=dict(Counter(row.outcome for row in measurement.rows if row.is_failed)),
        idle_tpot=tpot_spread(measurement.idle),
    )


def ttft_spread(rows: Iterable[RequestRow]) -> Spread | None:
    """Summarizes times to first token; one that never came in an unfinished request counts as the time waited."""
    return _with_lower_bounds(rows, lambda row: row.ttft_ms)


def turnaround_spread(rows: Iterable[RequestRow]) -> Spread | None:
    """Summarizes times to the end; an unfinished request counts as the time waited for it."""
    return _with_lower_bounds(rows, lambda row: row.total_ms if row.is_done else None)


def tpot_spread(rows: Iterable[RequestRow]) -> Spread | None:
    """Summarizes mean times per further token of complete answers."""
    return Spread.of([row.tpot_ms for row in rows if row.is_done and row.tpot_ms is not None])


def _summarize_class(measurement: Measurement, request_class: RequestClass, objective: Objective) -> ClassSummary:
    rows = [row for row in measurement.rows if row.request_class is request_class]
    gaps_ms = measurement.gaps_ms[request_class]
    num_chunks = len(gaps_ms) + sum(row.ttft_ms is not None for row in rows)
    return ClassSummary(
        num_requests=len(rows),
        num_done=sum(row.is_done for row in rows),
        num_failed=sum(row.is_failed for row in rows),
        num_unfinished=sum(not row.is_done and not row.is_failed for row in rows),
        ttft=ttft_spread(rows),
        tpot=tpot_spread(rows),
        gap=Spread.of(gaps_ms),
        turnaround=turnaround_spread(rows),
        queue=Spread.of([row.queue_ms for row in rows if row.queue_ms is not None]),
        tokens_per_chunk=_ratio(sum(row.num_tokens for row in rows), num_chunks),
        tokens_per_s=_rate(measurement.throughput.num_tokens[request_class], measurement.seconds),
        requests_per_s=_rate(measurement.throughput.num_done[request_class], measurement.seconds),
        goodput=_goodput(rows, objective, measurement.seconds),
    )


def _goodput(rows: Sequence[RequestRow], objective: Objective, seconds: float) -> Goodput | None:
    if not objective.is_given or not rows:
        return None
    attained = Attainment.of(rows, objective)
    return Goodput(
        attainment=round(attained.num_met / len(rows), 4),
        requests_per_s=_rate(attained.num_met, seconds),
        tokens_per_s=_rate(sum(row.num_tokens for row in rows if objective.is_met(row)), seconds),
        ttft_attainment=round(attained.num_ttft_met / len(rows), 4),
        tpot_attainment=round(attained.num_tpot_met / len(rows), 4),
    )


def _with_lower_bounds(rows: Iterable[RequestRow], time_ms: Callable[[RequestRow], float | None]) -> Spread | None:
    counted = [(time_ms(row), row.total_ms) for row in rows if not row.is_failed]
    times_ms = [waited_ms if measured_ms is None else measured_ms for measured_ms, waited_ms in counted]
    return Spread.of(times_ms, num_lower_bounds=sum(measured_ms is None for measured_ms, _ in counted))


def _rate(count: float, seconds: float) -> float:
    return round(count / seconds, 3) if seconds > 0 and math.isfinite(seconds) else 0.0


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None
