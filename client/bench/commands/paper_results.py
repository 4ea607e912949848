"""What the paper's experiment came to, set-up by set-up and rate by rate. Pure.

Source: arXiv 2503.09304, evaluation.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from qllm.client.bench.load.measurement import Measurement
from qllm.client.bench.load.record import RequestRow
from qllm.client.bench.load.run import Run
from qllm.client.bench.load.workload import BE, LS
from qllm.client.bench.report.grid import Grid
from qllm.client.bench.report.tables import NOTHING, number
from qllm.client.bench.results.summary import ClassSummary, Objective, summarize
from qllm.client.bench.set_ups import SetUpName
from qllm.client.bench.simulation.simulator import ClassResult
from qllm.client.bench.simulation.sweep import Axis, PointResult
from qllm.client.messages import RequestClass

_OWN_ITERATIONS = 10  # first tokens within so many of the machine's own decode iterations


@dataclass(frozen=True, slots=True)
class MeasuredResult:
    """What one set-up came to at one rate.

    Attributes:
        ls: The latency-sensitive requests.
        be: The best-effort requests.
        tokens_per_s: Output tokens of all requests a second.
        iteration_ms: A decode iteration of this machine: mean time between tokens on the idle service.
        own_attainment: Share of latency-sensitive requests with a first token within ten of those.
    """

    ls: ClassResult
    be: ClassResult
    tokens_per_s: float
    iteration_ms: float | None
    own_attainment: float | None

    @classmethod
    def of(cls, measurement: Measurement, slo_s: float, iteration_ms: float | None) -> "MeasuredResult":
        """Sums up a run."""
        summary = summarize(measurement, {LS: Objective(), BE: Objective()})
        ls_rows = _rows(measurement, LS)
        own = None if iteration_ms is None else _attainment(ls_rows, _OWN_ITERATIONS * iteration_ms)
        ls = _class_result(summary.ls, ls_rows, slo_s)
        be = _class_result(summary.be, _rows(measurement, BE), slo_s)
        return cls(ls, be, summary.tokens_per_s, iteration_ms, own)


def sweep_of(
    rates: Sequence[float], runs: Mapping[SetUpName, Sequence[Run]], slo_s: float
) -> list[PointResult[MeasuredResult]]:
    """The rates that every set-up got to, which must include the baseline."""
    if not runs.get(SetUpName.FCFS):
        return []
    iteration_ms = iteration_ms_of(runs[SetUpName.FCFS][0].measurement)
    num_rates = min(len(of_set_up) for of_set_up in runs.values())
    return [
        PointResult(
            rates[i],
            {
                str(set_up): MeasuredResult.of(of_set_up[i].measurement, slo_s, iteration_ms)
                for set_up, of_set_up in runs.items()
            },
        )
        for i in range(num_rates)
    ]


def iteration_ms_of(measurement: Measurement) -> float | None:
    """Mean milliseconds between tokens on the idle service, None if it was not measured."""
    times_ms = [
        (row.last_token_ms - row.ttft_ms) / (row.num_tokens - 1)
        for row in measurement.idle
        if row.last_token_ms is not None and row.ttft_ms is not None and row.num_tokens > 1
    ]
    return sum(times_ms) / len(times_ms) if times_ms else None


def own_grids(sweep: Sequence[PointResult[MeasuredResult]]) -> list[Grid]:
    """Tables of what only a real service has: its own objective, and how long an arrival waits for work before it."""
    iteration_ms = next((one.iteration_ms for one in sweep[0].results.values()), None)
    grids = [
        _grid(
            "LS wait for the first work on the prompt, ms: p50 / p99",
            sweep,
            lambda one: (
                NOTHING if one.ls.queue is None else f"{number(one.ls.queue.p50_ms)} / {number(one.ls.queue.p99_ms)}"
            ),
        )
    ]
    if iteration_ms is not None:
        within_ms = _OWN_ITERATIONS * iteration_ms
        title = f"LS requests with a first token within {within_ms:.0f} ms, ten of this machine's decode iterations"
        grids.append(
            _grid(title, sweep, lambda one: NOTHING if one.own_attainment is None else f"{one.own_attainment:.1%}")
        )
    return grids


def warnings_of(sweep: Iterable[PointResult[MeasuredResult]]) -> Iterator[str]:
    """Says where requests had not ended, so that their times are lower bounds."""
    for point in sweep:
        for label, result in point.results.items():
            for name, one in (("latency-sensitive", result.ls), ("best-effort", result.be)):
                if one.turnaround is not None and one.turnaround.num_lower_bounds:
                    unfinished = one.turnaround.num_lower_bounds
                    yield f"{label} at {point.value:g}/s: {unfinished} of {one.count} {name} requests had not ended"


def _grid(title: str, sweep: Sequence[PointResult[MeasuredResult]], shown: Callable[[MeasuredResult], str]) -> Grid:
    header = (Axis.RATE.heading, *(f"{point.value:g}" for point in sweep))
    rows = tuple((label, *(shown(point.results[label]) for point in sweep)) for label in sweep[0].results)
    return Grid(f"MEASURED: {title}", header, rows)


def _rows(measurement: Measurement, request_class: RequestClass) -> list[RequestRow]:
    """Requests of a class that did not fail."""
    return [row for row in measurement.rows if row.request_class is request_class and not row.is_failed]


def _attainment(rows: Sequence[RequestRow], within_ms: float) -> float | None:
    in_time = sum(row.ttft_ms is not None and row.ttft_ms <= within_ms for row in rows)
    return round(in_time / len(rows), 4) if rows else None


def _class_result(summary: ClassSummary, rows: Sequence[RequestRow], slo_s: float) -> ClassResult:
    first_ms = sorted(row.total_ms if row.ttft_ms is None else row.ttft_ms for row in rows)
    return ClassResult(
        count=len(rows),
        ttft=summary.ttft,
        tpot=summary.tpot,
        turnaround=summary.turnaround,
        queue=summary.queue,
        attainment=_attainment(rows, slo_s * 1e3),
        tokens_per_s=summary.tokens_per_s,
        ttft_ms=tuple(first_ms),
    )
