"""Draws measured over predicted step times: over the time since the start, and step by step against each other."""

from collections.abc import Sequence
from statistics import median

from matplotlib import rc_context
from matplotlib.figure import Figure
from qllm.client.bench.report.figures import CLASS_COLOURS, CLASS_NAMES, STYLE
from qllm.client.bench.results.recorded_trace import RecordedTrace

_ROLLING_STEPS = 25


def draw_predictions(trace: RecordedTrace) -> Figure:
    """Returns the figure of one trace."""
    steps = [step for step in trace.steps if step.predicted_ms and step.measured_ms > 0]
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 4), layout="constrained")
        over_time, against = figure.subplots(1, 2)
        for lane, colour in CLASS_COLOURS.items():
            mine = [(s.begin_ms / 1e3, s.predicted_ms or 0.0, s.measured_ms) for s in steps if s.lane is lane]
            if not mine:
                continue
            times_s, predicted_ms, measured_ms = zip(*mine, strict=True)
            ratios = [m / p for m, p in zip(measured_ms, predicted_ms, strict=True)]
            over_time.scatter(times_s, ratios, s=5, alpha=0.25, color=colour, linewidths=0)
            over_time.plot(times_s, rolling(ratios, _ROLLING_STEPS), color=colour, label=CLASS_NAMES[lane])
            against.scatter(predicted_ms, measured_ms, s=6, alpha=0.35, color=colour, linewidths=0)
        over_time.axhline(1.0, color="black", linewidth=0.8, linestyle="--")
        over_time.set(
            yscale="log", xlabel="seconds", title=f"measured / predicted; lines: median of {_ROLLING_STEPS} steps"
        )
        over_time.legend()
        longest_ms = max(max(s.measured_ms, s.predicted_ms or 0.0) for s in steps)
        against.plot((0.1, longest_ms), (0.1, longest_ms), color="black", linewidth=0.8, linestyle="--")
        against.set(xscale="log", yscale="log", xlabel="predicted, ms", ylabel="measured, ms", title="each step")
    return figure


def rolling(values: Sequence[float], width: int) -> list[float]:
    """Returns the median of each value and those before it, `width` in all."""
    return [median(values[max(0, i + 1 - width) : i + 1]) for i in range(len(values))]
