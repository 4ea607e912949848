"""Draws an ablation: how long latency-sensitive requests wait under each set-up, and what that costs."""

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure
from qllm.client.bench.load.workload import LS
from qllm.client.bench.report.figures import (
    IDLE_COLOUR,
    STYLE,
    draw_bars,
    draw_cdf,
    series_colour,
    show_plain_numbers,
    ttft_curve,
)
from qllm.client.bench.results.result_file import Result
from qllm.client.bench.set_ups import SetUpName


def ablation_figure(results: Sequence[Result]) -> Figure:
    """Draws all set-ups; bars that compare with `fcfs` are left out where it was not measured."""
    with rc_context(STYLE):
        figure = Figure(figsize=(12, 6.4), layout="constrained")
        places = figure.subplot_mosaic(
            [["cdf", "wait"], ["cdf", "throughput"], ["cdf", "turnaround"]], width_ratios=[1.5, 1]
        )
        idle = [row for result in results for row in result.idle]
        curves = [
            ttft_curve(result.label, series_colour(number), result.of_class(LS))
            for number, result in enumerate(results)
        ]
        draw_cdf(
            places["cdf"],
            "Latency-sensitive requests: time to first token",
            [*curves, ttft_curve("idle server", IDLE_COLOUR, idle)],
        )
        names = [result.label for result in results]
        for place, title, values in (
            ("wait", "Their mean time to first token, over the idle server's", _waits(results)),
            ("throughput", "Output tokens per second, to fcfs", _throughputs(results)),
            ("turnaround", "Best-effort turnaround, to fcfs", _turnarounds(results)),
        ):
            draw_bars(places[place], title, names, values, form="{:.2f}x")
        places["wait"].set_xscale("log")
        places["wait"].set_xlim(left=min(0.8, *(0.8 * wait for wait in _waits(results) if wait), 0.8))
        show_plain_numbers(places["wait"])
        for name in ("wait", "throughput", "turnaround"):
            places[name].axvline(1, color="#555555", linewidth=0.8, linestyle=":")
    return figure


def _waits(results: Sequence[Result]) -> list[float | None]:
    ratios = [result.summary.ttft_to_idle for result in results]
    return [None if ratio is None else ratio.mean for ratio in ratios]


def _throughputs(results: Sequence[Result]) -> list[float | None]:
    return _to_fcfs(results, [result.summary.tokens_per_s for result in results])


def _turnarounds(results: Sequence[Result]) -> list[float | None]:
    spreads = [result.summary.be.turnaround for result in results]
    return _to_fcfs(results, [None if spread is None else spread.mean_ms for spread in spreads])


def _to_fcfs(results: Sequence[Result], values: Sequence[float | None]) -> list[float | None]:
    base = next((value for one, value in zip(results, values, strict=True) if one.label == SetUpName.FCFS), None)
    return [value / base if value is not None and base else None for value in values]
