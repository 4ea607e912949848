"""Which figures of a simulated or measured sweep are shown, and in which units. Pure."""

from collections.abc import Callable, Sequence

from client.bench.report.grid import Grid
from client.bench.report.tables import NOTHING, number, times
from client.bench.results.spread import Spread
from client.bench.set_ups import SetUpName
from client.bench.simulation.simulator import SimulatedResult
from client.bench.simulation.sweep import Axis, PointResult, PolicyResult

_Figure = Callable[[PolicyResult, PolicyResult], str]  # of a result, and of fcfs at the same point


def result_grids(axis: Axis | None, sweep: Sequence[PointResult[PolicyResult]], slo_s: float, how: str) -> list[Grid]:
    """Returns a table for each figure with a column for each value; where nothing was varied, one table of all figures.

    Args:
        axis: What was varied.
        sweep: What came of it.
        slo_s: Objective for first tokens, in seconds.
        how: SIMULATED or MEASURED.
    """
    figures = _figures(slo_s)
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


def stops_grid(axis: Axis | None, sweep: Sequence[PointResult[SimulatedResult]]) -> Grid:
    """Returns how often each set-up stopped inside a layer."""
    header = (axis.heading if axis else "", *("" if point.value is None else f"{point.value:g}" for point in sweep))
    stops = "num_preemptions_at_expert"
    rows = tuple(
        (label, *(f"{point.results[label].counters[stops]:,}" for point in sweep)) for label in sweep[0].results
    )
    return Grid("SIMULATED: stops inside a layer", header, rows)


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


def _figures(slo_s: float) -> dict[str, _Figure]:
    return {
        "LS TTFT, mean seconds": lambda one, fcfs: _seconds(one.ls.ttft, "mean_ms"),
        "LS TTFT, p99 seconds": lambda one, fcfs: _seconds(one.ls.ttft, "p99_ms"),
        "LS TTFT, times lower than fcfs, mean": lambda one, fcfs: times(_ratio(fcfs.ls.ttft, one.ls.ttft)),
        f"LS requests with a first token within {slo_s:g} s": lambda one, fcfs: _share(one.ls.attainment),
        "LS turnaround, mean seconds": lambda one, fcfs: _seconds(one.ls.turnaround, "mean_ms"),
        "BE turnaround, mean seconds": lambda one, fcfs: _seconds(one.be.turnaround, "mean_ms"),
        "BE turnaround, to fcfs": lambda one, fcfs: times(_ratio(one.be.turnaround, fcfs.be.turnaround)),
        "output tokens per second": lambda one, fcfs: number(one.tokens_per_s),
        "output tokens per second, to fcfs": lambda one, fcfs: _to(one.tokens_per_s, fcfs.tokens_per_s),
    }


def _seconds(spread: Spread | None, key: str) -> str:
    return NOTHING if spread is None else number(getattr(spread, key) / 1e3)


def _share(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.1%}"


def _to(part: float, whole: float) -> str:
    return times(part / whole if whole else None)


def _ratio(part: Spread | None, whole: Spread | None) -> float | None:
    if part is None or whole is None or whole.mean_ms <= 0:
        return None
    return part.mean_ms / whole.mean_ms
