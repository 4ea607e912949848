"""Draws what a promised time per token buys: LS requests give time, BE work gains throughput; a line a machine.

The number at a dot is the promise in milliseconds.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from qllm.client.bench.report.figures import STYLE, series_colour, show_plain_numbers
from qllm.client.bench.results.spread import Spread
from qllm.client.bench.set_ups import SetUpName
from qllm.client.bench.simulation.sweep import ALONE, PointResult, PolicyResult

_Sweep = Sequence[PointResult[PolicyResult]]
_Dot = tuple[float, float]
_SWEPT = (SetUpName.EXPERT, SetUpName.LAYER)  # what the promise is made to; their lines differ in style
_STYLES = ("-", "--")
_ENDS = {SetUpName.FCFS: ("x", "fcfs"), ALONE: ("s", "latency-sensitive work alone")}
_NEAR = 0.02  # dots that differ by no more share one label


def promise_figure(sweeps: Mapping[str, _Sweep], title: str) -> Figure:
    """Draws LS time per token, mean and 99th percentile of requests, over BE throughput relative to fcfs.

    Args:
        sweeps: What came of each promise, by the name of the machine.
        title: What stands above.
    """
    with rc_context({**STYLE, "legend.fontsize": 9}):
        figure = Figure(figsize=(11, 5.4), layout="constrained")
        mean, p99 = figure.subplots(1, 2, sharex=True)
        for axes, name, time_ms in ((mean, "mean", _mean_ms), (p99, "99th percentile of requests", _p99_ms)):
            for number, (table, sweep) in enumerate(sweeps.items()):
                _draw_machine(axes, table, sweep, series_colour(number), time_ms)
            axes.set(
                title=f"Latency-sensitive: time per token, {name}",
                xlabel="best-effort output tokens per second, to fcfs",
                ylabel="milliseconds",
                yscale="log",
            )
            show_plain_numbers(axes, which="y")
        handles, labels = mean.get_legend_handles_labels()
        for marker, name in (_ENDS[one] for one in _ENDS if any(one in sweep[0].results for sweep in sweeps.values())):
            handles.append(Line2D([], [], marker=marker, linestyle="", color="#666666"))
            labels.append(name)
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        figure.suptitle(textwrap.fill(title, 120), x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    return figure


def _draw_machine(axes: Axes, table: str, sweep: _Sweep, colour: str, time_ms: Callable[[Spread], float]) -> None:
    for set_up, style in zip(_SWEPT, _STYLES, strict=True):
        dots = [(point.value, dot) for point in sweep if (dot := _dot(point, set_up, time_ms)) is not None]
        if not dots:
            continue
        label = table if set_up is SetUpName.EXPERT else f"{table}, {set_up}"
        axes.plot([x for _, (x, _) in dots], [y for _, (_, y) in dots], style, marker="o", color=colour, label=label)
        for text, dot in _labels(dots):
            axes.annotate(text, dot, (4, 4), textcoords="offset points", fontsize=7, color=colour)
    for end, (marker, _) in _ENDS.items():
        if (dot := _dot(sweep[0], end, time_ms)) is not None:
            axes.plot([dot[0]], [dot[1]], marker, color=colour, markersize=7)


def _labels(dots: Sequence[tuple[float | None, _Dot]]) -> list[tuple[str, _Dot]]:
    """Returns the promise of each dot; of several in one place the first and the last."""
    groups: list[list[tuple[float | None, _Dot]]] = []
    for value, dot in dots:
        if groups and all(abs(new / old - 1) <= _NEAR for new, old in zip(dot, groups[-1][0][1], strict=True)):
            groups[-1].append((value, dot))
        else:
            groups.append([(value, dot)])
    return [
        (" to ".join(f"{value:g}" for value, _ in (group if len(group) == 1 else (group[0], group[-1]))), group[0][1])
        for group in groups
    ]


def _dot(point: PointResult[PolicyResult], set_up: str, time_ms: Callable[[Spread], float]) -> _Dot | None:
    """Returns where a set-up stands at one promise; None where it was not run, or a class had no requests."""
    own, fcfs = point.results.get(set_up), point.results[SetUpName.FCFS]
    if own is None or own.ls.tpot is None or not fcfs.be.tokens_per_s:
        return None
    return own.be.tokens_per_s / fcfs.be.tokens_per_s, time_ms(own.ls.tpot)


def _mean_ms(spread: Spread) -> float:
    return spread.mean_ms


def _p99_ms(spread: Spread) -> float:
    return spread.p99_ms
