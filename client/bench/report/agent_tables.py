"""Which figures of simulated agents are shown, beside what the paper says. Pure.

Source: arXiv 2511.02230, evaluation.
"""

from collections.abc import Callable, Mapping

from client.bench.report.grid import Grid
from client.bench.report.tables import NOTHING, number, times
from client.bench.simulation.agents import AgentResult

PAPER = "1.1x to 3.7x"


def agents_grid(results: Mapping[str, AgentResult]) -> Grid:
    """Returns a column for each time to live; ratios are to the first one, under which nothing is kept."""
    nothing_kept, *_ = results.values()
    rows = tuple(
        (name, *(shown(result, nothing_kept) for result in results.values())) for name, shown in _FIGURES.items()
    )
    headline = ("delay, times lower by the paper", NOTHING, *("" for _ in list(results)[2:]), PAPER)
    return Grid("SIMULATED: how long caches are kept after a turn", ("", *results), (*rows, headline))


def _times_lower(base: float, value: float) -> str:
    return times(base / value if value else None)


def _hit_share(result: AgentResult, _: AgentResult) -> str:
    return NOTHING if result.hit_share is None else f"{result.hit_share:.1%}"


_FIGURES: dict[str, Callable[[AgentResult, AgentResult], str]] = {
    "turn's first token, mean seconds": lambda one, _: number(one.turn_delay_s["mean"]),
    "turn's first token, median seconds": lambda one, _: number(one.turn_delay_s["p50"]),
    "turn's first token, p99 seconds": lambda one, _: number(one.turn_delay_s["p99"]),
    "turn's first token, times sooner, mean": lambda one, base: _times_lower(
        base.turn_delay_s["mean"], one.turn_delay_s["mean"]
    ),
    "program's completion, mean seconds": lambda one, _: number(one.completion_s["mean"]),
    "program's completion, p99 seconds": lambda one, _: number(one.completion_s["p99"]),
    "program's completion, times sooner, mean": lambda one, base: _times_lower(
        base.completion_s["mean"], one.completion_s["mean"]
    ),
    "turns that found their cache kept": _hit_share,
    "programs": lambda one, _: f"{one.num_programs:,}",
    "virtual time, h": lambda one, _: f"{one.virtual_s / 3600:.2f}",
    "processor time, s": lambda one, _: f"{one.cpu_s:.1f}",
}
