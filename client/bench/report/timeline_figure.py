"""Draws what the worker did: one lane a class, time to the right, depth in the model upwards.

A rising edge is work; a batch that is left standing keeps its height until it goes on from there.

    layer |   /|        ......../|
          |  / |      /        | |   /
        0 | /  |    /          | | /
          +--------------------------- time
"""

from collections.abc import Callable
from itertools import cycle

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from qllm.client.bench.report.figures import CLASS_COLOURS, STYLE
from qllm.client.bench.results.recorded_trace import BE, LS, Moment, RecordedTrace, Step, Stop, View
from qllm.client.messages import RequestClass

_TITLES = {LS: "Latency-sensitive", BE: "Best-effort"}
_INK, _QUIET, _JOIN_COLOUR = "#1f2430", "#7a8194", "#111827"
_PALETTES = {LS: (CLASS_COLOURS[LS], "#e59a3c", "#9e3a4a"), BE: (CLASS_COLOURS[BE], "#5a78b8", "#8a6bb0", "#5f9350")}
_MAX_LABELS = 8
_LABEL_SHARE = 0.075  # of the view's width: room for a label inside a step


def draw_timeline(trace: RecordedTrace, view: View) -> Figure:
    """Returns the figure of one view of a trace."""
    with rc_context({**STYLE, "axes.titleweight": "bold", "axes.edgecolor": "#c8ccd6", "legend.fontsize": 9}):
        figure = Figure(figsize=(11, 5.2), layout="constrained")
        upper, lower = figure.subplots(2, 1)
        colour_of = _colours(trace, view)
        for axes, lane in ((upper, LS), (lower, BE)):
            _draw_lane(axes, trace, view, lane, colour_of)
        _draw_requests(upper, trace, view)
        _draw_stops(lower, upper, trace, view, colour_of)
        _draw_joins(upper, lower, trace, view)
        upper.tick_params(labelbottom=False)
        lower.set_xlabel("milliseconds")
        figure.suptitle(_headline(trace, view), x=0.008, ha="left", fontsize=11.5, fontweight="bold", color=_INK)
    return figure


def _colours(trace: RecordedTrace, view: View) -> Callable[[RequestClass, int], str]:
    """Returns a function that gives each batch in the view a colour of its class, neighbours different ones."""
    palettes = {lane: cycle(colours) for lane, colours in _PALETTES.items()}
    colours: dict[tuple[RequestClass, int], str] = {}
    for step in trace.steps:
        for batch_id in step.batch_ids if view.shows(step.begin_ms, step.end_ms) else ():
            key = (step.lane, batch_id)
            if key not in colours:
                colours[key] = next(palettes[step.lane])
    return lambda lane, batch_id: colours.get((lane, batch_id), _QUIET)


def _draw_lane(
    axes: Axes, trace: RecordedTrace, view: View, lane: RequestClass, colour_of: Callable[[RequestClass, int], str]
) -> None:
    axes.set_title(_TITLES[lane], color=CLASS_COLOURS[lane])
    axes.set_xlim(0, view.end_ms - view.begin_ms)
    axes.set_ylim(0, trace.num_layers * 1.28)
    step_size = max(1, trace.num_layers // 4)
    axes.set_yticks(range(0, trace.num_layers + 1, step_size))
    axes.set_ylabel("layer")
    for step in trace.steps:
        if step.lane is lane and view.shows(step.begin_ms, step.end_ms):
            _draw_step(axes, step, view, colour_of(lane, step.batch_ids[0 if lane is LS else -1]))


def _draw_step(axes: Axes, step: Step, view: View, colour: str) -> None:
    xs = (view.x(step.begin_ms), view.x(step.end_ms))
    depths = (step.from_depth, step.to_depth)
    axes.fill_between(xs, depths, color=colour, alpha=0.28, linewidth=0)
    axes.plot(xs, depths, color=colour, linewidth=1.8, solid_capstyle="round")
    is_begin = step.from_depth == 0.0
    if is_begin and step.end_ms - step.begin_ms > _LABEL_SHARE * (view.end_ms - view.begin_ms) and xs[0] >= 0:
        text = f"{step.num_tokens} token{'s' if step.num_tokens > 1 else ''}"
        axes.annotate(text, (xs[1], 0), xytext=(-3, 3), textcoords="offset points", ha="right", fontsize=8, color=_INK)


def _draw_requests(axes: Axes, trace: RecordedTrace, view: View) -> None:
    height = trace.num_layers * 1.12
    _mark(axes, trace.arrivals, view, height, "v", "a request arrives")
    _mark(axes, trace.first_tokens, view, height, "*", "its first token")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.1)


def _mark(axes: Axes, moments: list[Moment], view: View, height: float, marker: str, label: str) -> None:
    xs = [view.x(m.at_ms) for m in moments if m.lane is LS and view.shows(m.at_ms, m.at_ms)]
    if xs:
        size = 95 if marker == "*" else 55
        axes.scatter(xs, [height] * len(xs), marker=marker, s=size, color=CLASS_COLOURS[LS], zorder=4, label=label)


def _draw_stops(
    axes: Axes,
    other: Axes,
    trace: RecordedTrace,
    view: View,
    colour_of: Callable[[RequestClass, int], str],
) -> None:
    stops = [s for s in trace.stops if s.lane is BE and view.shows(s.begin_ms, s.end_ms or view.end_ms)]
    for stop in stops:
        colour = colour_of(BE, stop.batch_id)
        begin, end = view.x(stop.begin_ms), view.x(stop.end_ms if stop.end_ms is not None else view.end_ms)
        depth = _depth_of(trace, stop)
        axes.plot((begin, end), (depth, depth), color=colour, linewidth=1.6, linestyle=(0, (2, 2)))
        axes.scatter([begin, end], [depth, depth], color=[colour, colour], s=26, zorder=4, edgecolors="white")
        for x in (begin, end):
            for each in (axes, other):
                each.axvline(x, color=_QUIET, linewidth=0.8, linestyle=":", zorder=0)
        if len(stops) <= _MAX_LABELS:
            _label_stop(axes, trace, stop, (begin + end) / 2, depth)


def _label_stop(axes: Axes, trace: RecordedTrace, stop: Stop, x: float, depth: float) -> None:
    stood = "" if stop.end_ms is None else f"\nresumed there after {stop.end_ms - stop.begin_ms:.0f} ms"
    is_high = depth > 0.62 * trace.num_layers
    offset, alignment = (-7, "top") if is_high else (7, "bottom")
    axes.annotate(
        f"stopped at {stop.place}{stood}",
        (x, depth),
        xytext=(0, offset),
        textcoords="offset points",
        ha="center",
        va=alignment,
        fontsize=9,
        color=_INK,
        bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
        zorder=5,
    )


def _draw_joins(upper: Axes, lower: Axes, trace: RecordedTrace, view: View) -> None:
    xs = [view.x(m.at_ms) for m in trace.joins if view.shows(m.at_ms, m.at_ms)]
    for axes in (upper, lower) if xs else ():
        axes.scatter(xs, [0.03 * trace.num_layers] * len(xs), marker="D", s=22, color=_JOIN_COLOUR, zorder=4)
    if xs:
        lower.scatter(
            [], [], marker="D", s=22, color=_JOIN_COLOUR, label="batches joined: one pass through the experts"
        )
        lower.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1)


def _depth_of(trace: RecordedTrace, stop: Stop) -> float:
    """Returns how deep in the model a stop is: where the batch's last step before it ended."""
    before = [s for s in trace.steps if stop.batch_id in s.batch_ids and s.end_ms <= stop.begin_ms + 1e-3]
    return before[-1].to_depth if before else 0.0


def _headline(trace: RecordedTrace, view: View) -> str:
    inside = [s for s in trace.stops if s.lane is BE and view.begin_ms <= s.begin_ms <= view.end_ms]
    span = f"{view.end_ms - view.begin_ms:.0f} ms of one worker"
    if not inside:
        return span
    times = "once" if len(inside) == 1 else f"{len(inside)} times"
    return f"{span}: best-effort work is stopped {times} inside an iteration, and goes on from the same place"
