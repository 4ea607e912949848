"""Which figures of simulated agents are shown, beside what the paper says. Pure.

Source: arXiv 2511.02230, evaluation.
"""

from collections.abc import Callable, Mapping, Sequence

from qllm.client.bench.report.grid import Grid
from qllm.client.bench.report.tables import NOTHING
from qllm.client.bench.results.mean import Mean, mean_of_ratios
from qllm.client.bench.simulation.agents import AgentResult

PAPER = "1.1x to 3.7x"
_Number = Callable[[AgentResult], float | None]


def agents_grid(results: Mapping[str, Sequence[AgentResult]]) -> Grid:
    """Returns a column for each time to live: means over the seeds, with their standard errors.

    Ratios are those of each seed to the first time, under which nothing is kept.
    """
    nothing_kept, *_ = results.values()
    rows: list[tuple[str, ...]] = []
    for name, shown in _FIGURES.items():
        rows.append((name, *(_mean(shown, of_time) for of_time in results.values())))
        if name in _COMPARED:
            rows.append(("  times sooner", *(_times(shown, nothing_kept, of_time) for of_time in results.values())))
    headline = ("delay, times lower by the paper", NOTHING, *("" for _ in list(results)[2:]), PAPER)
    return Grid("SIMULATED: how long caches are kept after a turn", ("", *results), (*rows, headline))


def _mean(shown: _Number, results: Sequence[AgentResult]) -> str:
    numbers = (shown(result) for result in results)
    mean = Mean.of(number for number in numbers if number is not None)
    return NOTHING if mean is None else mean.text(2)


def _times(shown: _Number, base: Sequence[AgentResult], results: Sequence[AgentResult]) -> str:
    pairs = [(shown(one) or 0.0, shown(other) or 0.0) for one, other in zip(base, results, strict=True)]
    mean = mean_of_ratios(pairs)
    return NOTHING if mean is None else f"{mean.text(2)}x"


_FIGURES: dict[str, _Number] = {
    "turn's first token, mean seconds": lambda one: one.turn_delay_s["mean"],
    "turn's first token, median seconds": lambda one: one.turn_delay_s["p50"],
    "turn's first token, p99 seconds": lambda one: one.turn_delay_s["p99"],
    "program's completion, mean seconds": lambda one: one.completion_s["mean"],
    "program's completion, p99 seconds": lambda one: one.completion_s["p99"],
    "turns that found their cache kept, %": lambda one: one.hit_percent,
    "prompt tokens found in the cache, %": lambda one: one.cached_percent,
    "caches moved away or dropped": lambda one: one.num_gave_way,
    "programs": lambda one: one.num_programs,
    "virtual time, h": lambda one: one.virtual_s / 3600,
    "processor time, s": lambda one: one.cpu_s,
}
_COMPARED = ("turn's first token, mean seconds", "program's completion, mean seconds")
