"""Draws searches for goodput: the share of LS requests that keep their targets, over what best-effort work makes."""

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from qllm.client.bench.report.figures import STYLE, series_colour
from qllm.client.bench.report.tables import number
from qllm.client.bench.results.goodput import Level, ServerGoodput

_GOAL_COLOUR = "#888888"


def goodput_figure(servers: Sequence[ServerGoodput]) -> Figure:
    """Draws a line for each server, from level to level; dots that are filled hold, and a star is the goodput."""
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 5.6), layout="constrained")
        axes = figure.subplots()
        for index, server in enumerate(servers):
            _draw_server(axes, server, series_colour(index))
        goals = sorted({server.goal for server in servers})
        for goal in goals:
            axes.axhline(goal, color=_GOAL_COLOUR, linewidth=1, linestyle="--")
            axes.annotate(
                f"goal: {goal * 100:g} %", (1, goal), (0, 3), ("axes fraction", "data"), "offset points", ha="right"
            )
        axes.set(
            title="Latency-sensitive requests that keep both targets, by what best-effort work makes meanwhile",
            xlabel="best-effort tokens per second (at each dot: best-effort clients)",
            ylabel="share of latency-sensitive requests",
            ylim=(-0.03, 1.08),
        )
        if axes.lines:
            axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
        if any(server.levels for server in servers):
            axes.legend(loc="best")
    return figure


def _draw_server(axes: Axes, server: ServerGoodput, colour: str) -> None:
    levels = sorted((level for level in server.levels if level.share is not None), key=lambda one: one.num_be_clients)
    if not levels:
        return
    rates, shares = [level.be_tokens_per_s for level in levels], [level.share or 0.0 for level in levels]
    label = f"{server.label}: goodput {number(server.tokens_per_s)} tokens/s"
    axes.plot(rates, shares, color=colour, linewidth=1.4, label=label)
    _draw_intervals(axes, levels, colour)
    for level, rate, share in zip(levels, rates, shares, strict=True):
        filled = colour if level.holds else "white"
        axes.plot([rate], [share], marker="o", markersize=5, color=colour, markerfacecolor=filled, linestyle="none")
        axes.annotate(f"{level.num_be_clients}", (rate, share), (4, 4), textcoords="offset points", fontsize=7)
    if (best := server.best) is not None and best.num_be_clients:
        axes.plot([best.be_tokens_per_s], [best.share or 0.0], marker="*", markersize=13, color=colour)


def _draw_intervals(axes: Axes, levels: Sequence[Level], colour: str) -> None:
    """Draws the intervals of both figures, faintly."""
    axes.errorbar(
        [level.be_tokens_per_s for level in levels],
        [level.share or 0.0 for level in levels],
        xerr=[level.be_tokens_per_s_error or 0.0 for level in levels],
        yerr=[
            [max((level.share or 0.0) - level.low, 0.0) for level in levels],
            [max(level.high - (level.share or 0.0), 0.0) for level in levels],
        ],
        color=colour,
        alpha=0.35,
        linestyle="none",
        linewidth=1,
    )
