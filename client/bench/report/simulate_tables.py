"""Which figures of a simulated or measured sweep are shown, and in which units. Pure."""

from collections.abc import Callable, Sequence

from qllm.client.bench.report.grid import Grid
from qllm.client.bench.report.tables import NOTHING, number, times
from qllm.client.bench.results.spread import Spread
from qllm.client.bench.results.summary import Objective
from qllm.client.bench.set_ups import SetUpName
from qllm.client.bench.simulation.simulator import SimulatedResult
from qllm.client.bench.simulation.sweep import Axis, PointResult, PolicyResult

_Figure = Callable[[PolicyResult, PolicyResult], str]  # of a result, and of fcfs at the same point


def result_grids(
    axis: Axis | None, sweep: Sequence[PointResult[PolicyResult]], objective: Objective, how: str
) -> list[Grid]:
    """Returns a table for each figure with a column for each value; where nothing was varied, one table of all figures.

    Args:
        axis: What was varied.
        sweep: What came of it.
        objective: What latency-sensitive requests should keep. Where the promised time per token is varied, each
            point has its own.
        how: SIMULATED or MEASURED.
    """
    figures = _figures(objective, "as promised" if axis is Axis.LS_TPOT else None)
    if axis is None:
        results = sweep[0].results
        rows = tuple(
            (name, *(shown(one, results[SetUpName.FCFS]) for one in results.values()))
            for name, shown in figures.items()
        )
        return [Grid(f"{how}: all set-ups on the same requests", ("", *results), rows)]
    labels = sweep[0].results
    header = (axis.heading, *(f"{point.value:g}" for point in sweep))
    return [
        Grid(
            f"{how}: {name}",
            header,
            tuple(
                (label, *(shown(point.results[label], point.results[SetUpName.FCFS]) for point in sweep))
                for label in labels
            ),
        )
        for name, shown in figures.items()
    ]


def stops_grid(axis: Axis | None, sweep: Sequence[PointResult[SimulatedResult]], how: str) -> Grid:
    """Returns how often each set-up stopped inside a layer; `how` stands before the title."""
    header = (axis.heading if axis else "", *("" if point.value is None else f"{point.value:g}" for point in sweep))
    stops = "num_preemptions_at_expert"
    rows = tuple(
        (label, *(f"{point.results[label].counters[stops]:,}" for point in sweep)) for label in sweep[0].results
    )
    return Grid(f"{how}: stops inside a layer", header, rows)


def cost_grid(sweep: Sequence[PointResult[SimulatedResult]]) -> Grid:
    """Returns what the simulation took."""
    results = [result for point in sweep for result in point.results.values()]
    virtual_s, cpu_s = sum(one.virtual_s for one in results), sum(one.cpu_s for one in results)
    rows = (
        ("simulations", str(len(results))),
        ("virtual time", f"{virtual_s / 3600:.2f} h"),
        ("processor time", f"{cpu_s:.1f} s"),
        ("times as fast as the clock", f"{virtual_s / cpu_s:,.0f}" if cpu_s else NOTHING),
        ("decisions of the core", f"{sum(one.num_events for one in results):,}"),
    )
    return Grid("What the simulation took", ("", ""), rows)


def _figures(objective: Objective, tpot: str | None) -> dict[str, _Figure]:
    within = f"within {(objective.ttft_ms or 0.0) / 1e3:g} s"
    return {
        "LS TTFT, mean seconds": lambda one, fcfs: _seconds(one.ls.ttft, "mean_ms"),
        "LS TTFT, p99 seconds": lambda one, fcfs: _seconds(one.ls.ttft, "p99_ms"),
        "LS TTFT, times lower than fcfs, mean": lambda one, fcfs: times(_ratio(fcfs.ls.ttft, one.ls.ttft)),
        f"LS requests with a first token {within}": lambda one, fcfs: _share(one.ls.attainment),
        "LS time per token, mean ms": lambda one, fcfs: _milliseconds(one.ls.tpot, "mean_ms"),
        "LS time per token, p99 ms": lambda one, fcfs: _milliseconds(one.ls.tpot, "p99_ms"),
        **(_tpot_figures(within, tpot or f"within {objective.tpot_ms:g} ms") if objective.tpot_ms is not None else {}),
        "LS turnaround, mean seconds": lambda one, fcfs: _seconds(one.ls.turnaround, "mean_ms"),
        "BE turnaround, mean seconds": lambda one, fcfs: _seconds(one.be.turnaround, "mean_ms"),
        "BE turnaround, to fcfs": lambda one, fcfs: times(_ratio(one.be.turnaround, fcfs.be.turnaround)),
        "BE output tokens per second": lambda one, fcfs: number(one.be.tokens_per_s),
        "BE output tokens per second, to fcfs": lambda one, fcfs: _to(one.be.tokens_per_s, fcfs.be.tokens_per_s),
        "output tokens per second": lambda one, fcfs: number(one.tokens_per_s),
        "output tokens per second, to fcfs": lambda one, fcfs: _to(one.tokens_per_s, fcfs.tokens_per_s),
    }


def _tpot_figures(within: str, fluently: str) -> dict[str, _Figure]:
    return {
        f"LS requests with their further tokens {fluently}": lambda one, fcfs: _share(one.ls.tpot_attainment),
        f"LS requests with both, a first token {within} and further ones {fluently}": lambda one, fcfs: _share(
            one.ls.both_attainment
        ),
    }


def _seconds(spread: Spread | None, key: str) -> str:
    return NOTHING if spread is None else number(getattr(spread, key) / 1e3)


def _milliseconds(spread: Spread | None, key: str) -> str:
    return NOTHING if spread is None else number(getattr(spread, key))


def _share(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.1%}"


def _to(part: float, whole: float) -> str:
    return times(part / whole if whole else None)


def _ratio(part: Spread | None, whole: Spread | None) -> float | None:
    if part is None or whole is None or whole.mean_ms <= 0:
        return None
    return part.mean_ms / whole.mean_ms
