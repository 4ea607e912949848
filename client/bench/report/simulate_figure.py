"""Draws a simulated experiment: four figures over what was varied, or distributions where nothing was."""

import textwrap
from collections.abc import Callable, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from qllm.client.bench.report.figures import STYLE, Curve, draw_bars, draw_cdf, series_colour, show_plain_numbers
from qllm.client.bench.results.spread import Spread
from qllm.client.bench.set_ups import SetUpName
from qllm.client.bench.simulation.sweep import Axis, PointResult, PolicyResult

_MARKERS = "osD^v"
_SECONDS = "seconds"


def sweep_figure(axis: Axis, sweep: Sequence[PointResult[PolicyResult]], slo_s: float, title: str) -> Figure:
    """Draws mean times of both classes and throughput over the axis, a line for each set-up."""
    with rc_context({**STYLE, "legend.fontsize": 9}):
        figure = Figure(figsize=(11, 7), layout="constrained")
        ttft, ls_turnaround, be_turnaround, throughput = figure.subplots(2, 2).flat
        _draw_lines(ttft, axis, sweep, lambda one: _mean_s(one.ls.ttft))
        ttft.axhline(slo_s, color="#888888", linewidth=1, linestyle="--")
        ttft.annotate(
            f"objective: {slo_s:g} s", (1, slo_s), (0, 3), ("axes fraction", "data"), "offset points", ha="right"
        )
        ttft.set(title="Latency-sensitive: time to first token, mean", ylabel=_SECONDS, yscale="log")
        _draw_lines(ls_turnaround, axis, sweep, lambda one: _mean_s(one.ls.turnaround))
        ls_turnaround.set(title="Latency-sensitive: turnaround, mean", ylabel=_SECONDS, yscale="log")
        _draw_lines(be_turnaround, axis, sweep, lambda one: _mean_s(one.be.turnaround))
        be_turnaround.set(title="Best-effort: turnaround, mean", ylabel=_SECONDS, ylim=(0, None))
        _draw_lines(throughput, axis, sweep, lambda one: one.tokens_per_s)
        throughput.set(title="Output tokens per second, both classes", ylim=(0, None))
        for axes in (ttft, ls_turnaround):
            show_plain_numbers(axes, which="y")
        handles, labels = ttft.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        _entitle(figure, title)
    return figure


def point_figure(point: PointResult[PolicyResult], title: str) -> Figure:
    """Draws the set-ups side by side on one traffic."""
    with rc_context(STYLE):
        figure = Figure(figsize=(12, 5.6), layout="constrained")
        places = figure.subplot_mosaic([["cdf", "turnaround"], ["cdf", "throughput"]], width_ratios=[1.5, 1])
        results = list(point.results.items())
        curves = [
            Curve(label, series_colour(i), result.ls.ttft_ms, result.ls.count)
            for i, (label, result) in enumerate(results)
        ]
        draw_cdf(places["cdf"], "Latency-sensitive requests: time to first token", curves)
        places["cdf"].set_xlabel("seconds")
        places["cdf"].xaxis.set_major_formatter(lambda value, position: f"{value / 1e3:,g}")
        places["cdf"].xaxis.set_minor_formatter(lambda value, position: "")  # virtual waits span many decades
        names = [label for label, _ in results]
        waits = [_mean_s(result.be.turnaround) or 0.0 for _, result in results]
        draw_bars(places["turnaround"], "Best-effort turnaround, mean seconds", names, waits)
        draw_bars(
            places["throughput"], "Output tokens per second", names, [result.tokens_per_s for _, result in results]
        )
        _entitle(figure, title)
    return figure


def _entitle(figure: Figure, title: str) -> None:
    figure.suptitle(textwrap.fill(title, 120), x=0.01, ha="left", fontsize=10.5, fontweight="bold")


def _mean_s(spread: Spread | None) -> float | None:
    return None if spread is None else spread.mean_ms / 1e3


def _draw_lines(
    axes: Axes,
    axis: Axis,
    sweep: Sequence[PointResult[PolicyResult]],
    figure_of: Callable[[PolicyResult], float | None],
) -> None:
    labels = list(dict.fromkeys(label for point in sweep for label in point.results))
    for number, label in enumerate(labels):
        dots = [(point.value, figure_of(point.results[label])) for point in sweep if label in point.results]
        shown = [(x, y) for x, y in dots if x is not None and y is not None]
        style = "--" if label == SetUpName.FCFS else "-"
        axes.plot(
            [x for x, _ in shown],
            [y for _, y in shown],
            style,
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4.5,
            color=series_colour(number),
            label=label,
        )
    axes.set_xlabel(axis.heading)
    if axis in (Axis.BE_PROMPT, Axis.QUANTUM):
        values = [point.value for point in sweep if point.value is not None]
        axes.set_xscale("log")
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
