"""Draws results with matplotlib: what a figure shows, and in which colours. Knows nothing of files and pages.

The only module that needs matplotlib; import it where a picture is wanted.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qllm.client.bench.errors import MissingExtra
from qllm.client.bench.load.record import RequestRow
from qllm.client.bench.load.workload import BE, CLASSES, LS
from qllm.client.bench.results.result_file import Result
from qllm.client.messages import RequestClass

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError:
    raise MissingExtra("matplotlib") from None

CLASS_COLOURS = {LS: "#c8553d", BE: "#28666e"}
IDLE_COLOUR = "#9a9a9a"
CLASS_NAMES = {LS: "latency-sensitive", BE: "best-effort"}
# Tableau's ten, put so that neighbours differ in lightness too.
SERIES_COLOURS = (
    "#4e79a7",
    "#f28e2b",
    "#59a14f",
    "#e15759",
    "#76b7b2",
    "#b07aa1",
    "#9c755f",
    "#edc948",
    "#bab0ac",
    "#ff9da7",
)
STYLE: dict[Any, Any] = {  # matplotlib types its keys as one long Literal
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "legend.fontsize": 8,
    "svg.fonttype": "none",
}
_SHORTEST_MS = 0.1  # a logarithmic axis has no zero
_MAX_VECTOR_POINTS = 3000  # beyond so many, points of an SVG are drawn as an image, for its size


def result_figure(result: Result) -> Figure:
    """Draws one result: times to first token over time, their distribution, turnaround, and throughput."""
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 7.2), layout="constrained")
        over_time, ttft, throughput, turnaround = figure.subplots(2, 2).flat
        _draw_ttft_over_time(over_time, result)
        _draw_throughput(throughput, result)
        series = [
            *((CLASS_NAMES[name], CLASS_COLOURS[name], result.of_class(name)) for name in CLASSES),
            ("latency-sensitive, idle server", IDLE_COLOUR, list(result.idle)),
        ]
        draw_cdf(ttft, "Time to first token", [ttft_curve(*one) for one in series])
        draw_cdf(turnaround, "Turnaround", [turnaround_curve(*one) for one in series])
        figure.suptitle(result.label, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure


def comparison_figure(results: Sequence[Result]) -> Figure:
    """Draws several results: distributions of both classes' times, and throughput."""
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 7.2), layout="constrained")
        ls_ttft, ls_turnaround, throughput, be_turnaround = figure.subplots(2, 2).flat
        draw_cdf(ls_ttft, "Latency-sensitive: time to first token", _ttft_curves(results, LS))
        draw_cdf(ls_turnaround, "Latency-sensitive: turnaround", _turnaround_curves(results, LS))
        draw_cdf(be_turnaround, "Best-effort: turnaround", _turnaround_curves(results, BE))
        values = [result.summary.tokens_per_s for result in results]
        draw_bars(throughput, "Output tokens per second", [one.label for one in results], values)
    return figure


@dataclass(frozen=True, slots=True)
class Curve:
    """A distribution to draw; `num_requests` counts those too that never had a time."""

    name: str
    colour: str
    times_ms: Sequence[float]
    num_requests: int


def ttft_curve(name: str, colour: str, rows: Sequence[RequestRow]) -> Curve:
    """Returns the distribution of times to first token."""
    return Curve(name, colour, [row.ttft_ms for row in rows if row.ttft_ms is not None], len(rows))


def turnaround_curve(name: str, colour: str, rows: Sequence[RequestRow]) -> Curve:
    """Returns the distribution of times to the end of complete answers."""
    return Curve(name, colour, [row.total_ms for row in rows if row.is_done], len(rows))


def draw_cdf(axes: Axes, title: str, curves: Sequence[Curve]) -> None:
    """Draws cumulative distributions over a logarithmic axis; requests that never had a time hold a curve below 1."""
    for curve in curves:
        if not curve.times_ms:
            continue
        ordered = sorted(max(time_ms, _SHORTEST_MS) for time_ms in curve.times_ms)
        heights = [number / curve.num_requests for number in range(len(ordered) + 1)]
        label = f"{curve.name} ({curve.num_requests})"
        axes.step([ordered[0], *ordered], heights, where="post", color=curve.colour, label=label, linewidth=1.6)
    axes.set(title=title, xlabel="milliseconds", ylabel="share of requests", ylim=(0, 1.02))
    if axes.lines:  # a logarithmic axis cannot be empty
        axes.set_xscale("log")
        show_plain_numbers(axes)
        axes.legend(loc="best")


def draw_bars(
    axes: Axes, title: str, names: Sequence[str], values: Sequence[float | None], *, form: str = "{:,.1f}"
) -> None:
    """Draws one bar for each name, with its value at its end; no bar where there is no value."""
    colours = [series_colour(number) for number in range(len(names))]
    places = range(len(names))
    bars = axes.barh(places, [value or 0.0 for value in values], color=colours, height=0.62)
    labels = ["not measured" if value is None else form.format(value) for value in values]
    axes.bar_label(bars, labels=labels, padding=4, fontsize=8)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.margins(x=0.16)
    axes.grid(visible=False, axis="y")
    axes.set(title=title)


def series_colour(number: int) -> str:
    """Returns the colour of the n-th of several results."""
    return SERIES_COLOURS[number % len(SERIES_COLOURS)]


def to_png(figure: Figure) -> bytes:
    """Returns the figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def to_svg(figure: Figure, salt: str) -> str:
    """Returns the figure as an SVG element for a page: no prologue, no metadata, and no address of anything.

    Args:
        figure: What to draw.
        salt: Keeps its ids apart from those of other figures on the page.
    """
    buffer = io.StringIO()
    with rc_context({**STYLE, "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # In a page, names of XML namespaces mean nothing: the parser of HTML knows them.
    for name in ('xmlns:xlink="http://www.w3.org/1999/xlink"', 'xmlns="http://www.w3.org/2000/svg"'):
        text = text.replace(name, "")
    return text


def _draw_ttft_over_time(axes: Axes, result: Result) -> None:
    for request_class in (BE, LS):
        rows = [row for row in result.of_class(request_class) if row.ttft_ms is not None]
        axes.scatter(
            [row.at_ms / 1e3 for row in rows],
            [row.ttft_ms for row in rows if row.ttft_ms is not None],
            s=12,
            color=CLASS_COLOURS[request_class],
            label=CLASS_NAMES[request_class],
            alpha=0.75,
            linewidths=0,
            rasterized=len(rows) > _MAX_VECTOR_POINTS,
        )
    if result.summary.idle_ttft:
        axes.axhline(
            result.summary.idle_ttft.mean_ms, color=IDLE_COLOUR, linewidth=1, linestyle="--", label="LS idle, mean"
        )
    axes.set(title="Time to first token, by when it was asked", xlabel="seconds", ylabel="milliseconds")
    if any(row.ttft_ms is not None for row in result.rows):
        axes.set_yscale("log")
        show_plain_numbers(axes, which="y")
        axes.legend(loc="best")


def _draw_throughput(axes: Axes, result: Result) -> None:
    """Stacks both classes' tokens; the last stretch counts by its own length, and not at all if it is a splinter."""
    seconds, bin_s = result.summary.seconds, result.bin_s
    num_bins = len(result.bins[LS])
    lengths_s = [min(bin_s, seconds - number * bin_s) for number in range(num_bins)]
    whole = [number for number, length_s in enumerate(lengths_s) if length_s > bin_s / 2]
    if not whole:
        return
    rates = [[result.bins[name][number] / lengths_s[number] for number in whole] for name in (LS, BE)]
    edges = [*(number * bin_s for number in whole), whole[-1] * bin_s + lengths_s[whole[-1]]]
    colours, names = [CLASS_COLOURS[LS], CLASS_COLOURS[BE]], [CLASS_NAMES[LS], CLASS_NAMES[BE]]
    heights = [[*one, one[-1]] for one in rates]
    axes.stackplot(edges, heights, colors=colours, labels=names, step="post", linewidth=0)
    top = max(sum(both) for both in zip(*rates, strict=True))
    axes.set(title="Output tokens per second", xlabel="seconds", ylim=(0, 1.2 * top or 1))
    axes.legend(loc="upper right", ncols=2)


def _ttft_curves(results: Sequence[Result], request_class: RequestClass) -> list[Curve]:
    return [
        ttft_curve(result.label, series_colour(number), result.of_class(request_class))
        for number, result in enumerate(results)
    ]


def _turnaround_curves(results: Sequence[Result], request_class: RequestClass) -> list[Curve]:
    return [
        turnaround_curve(result.label, series_colour(number), result.of_class(request_class))
        for number, result in enumerate(results)
    ]


def show_plain_numbers(axes: Axes, which: str = "x") -> None:
    """Labels a logarithmic axis with 20, 50, 100, ... rather than with powers."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(lambda value, position: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axis.set_minor_formatter(lambda value, position: f"{value:,.0f}" if _is_marked(value) else "")
    axis.set_tick_params(which="minor", labelsize=7)


def _is_marked(value: float) -> bool:
    """Whether a minor tick stands at 2 or 5 times a power of ten."""
    return value >= 1 and round(value / 10 ** math.floor(math.log10(value))) in (2, 5)
