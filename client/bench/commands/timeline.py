"""`qllm-client bench timeline`: a picture of a recorded trace, around a preemption or a time."""

from pathlib import Path
from typing import Annotated

import typer
from qllm.client.bench.console import complaining
from qllm.client.bench.errors import BenchError
from qllm.client.bench.report.timeline_caption import caption
from qllm.client.bench.results.recorded_trace import BE, RecordedTrace, Stop, View, read_trace

_BEFORE = 0.3  # of the span lies before what it is around
_STORY_SPANS = 4.0  # times that a batch stands still, in a span that was not given


def timeline(
    trace_file: Annotated[
        Path, typer.Argument(metavar="TRACE.json", help="Names the file that qllm-scheduler --trace wrote.")
    ],
    png: Annotated[Path, typer.Option(help="Names the picture to write.")],
    around: Annotated[
        str,
        typer.Option(metavar="preemption|SECONDS", help="Chooses what is shown: a preemption, or a time of the trace."),
    ] = "preemption",
    span_ms: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            max=1e7,
            help="Sets how many milliseconds are shown. Without it as many as the preemption takes are.",
        ),
    ] = None,
) -> None:
    """Draws what the worker did when, from a recorded trace, and says in a line what the picture shows.

    The whole trace opens in https://ui.perfetto.dev (nothing is uploaded).

    [bold]Examples[/bold]

      qllm-scheduler --model demo/model --spawn-worker --trace trace.json

      qllm-client bench timeline trace.json --png timeline.png

      qllm-client bench timeline trace.json --png timeline.png --around 12.5 --span-ms 400
    """
    with complaining():
        trace = read_trace(trace_file)
        view = choose_view(trace, around, span_ms)
        _draw(trace, view, png)
    typer.echo(f"{png}: {view.begin_ms / 1e3:.3f} to {view.end_ms / 1e3:.3f} s of {trace_file}")
    typer.echo(caption(trace, view))


def _draw(trace: RecordedTrace, view: View, png: Path) -> None:
    from qllm.client.bench.report.figures import to_png
    from qllm.client.bench.report.timeline_figure import draw_timeline

    picture = to_png(draw_timeline(trace, view))
    try:
        png.write_bytes(picture)
    except OSError as error:
        raise BenchError(f"--png: {png} cannot be written: {error.strerror}") from None


def choose_view(trace: RecordedTrace, around: str, span_ms: float | None) -> View:
    """Returns what to draw: around the preemption that tells most, or around a time in seconds."""
    if around == "preemption":
        stop = best_story(trace)
        stood_ms = (stop.end_ms or stop.begin_ms) - stop.begin_ms
        return _view(stop.begin_ms, span_ms or max(1.0, _STORY_SPANS * stood_ms))
    try:
        at_ms = float(around) * 1e3
    except ValueError:
        raise BenchError(f"--around: got {around!r}, allowed is preemption, or a time in seconds") from None
    last_ms = trace.steps[-1].end_ms
    if not 0 <= at_ms <= last_ms:
        raise BenchError(f"--around: got {around}, allowed is 0 to {last_ms / 1e3:.3f}, where the trace ends")
    return _view(at_ms, span_ms or 400.0)


def best_story(trace: RecordedTrace) -> Stop:
    """Returns the preemption to show: of best-effort work that went on later, among a layer's experts if there is one.

    Of several, the one that stood still for the median time.
    """
    resumed = [stop for stop in trace.stops if stop.lane is BE and stop.end_ms is not None]
    if not resumed:
        raise BenchError("the trace holds no best-effort batch that was stopped and went on; name a time with --around")
    among_experts = [stop for stop in resumed if "expert" in stop.place and not stop.place.endswith("expert 0")]
    ordered = sorted(among_experts or resumed, key=lambda stop: (stop.end_ms or 0.0) - stop.begin_ms)
    return ordered[len(ordered) // 2]


def _view(at_ms: float, span_ms: float) -> View:
    begin_ms = max(0.0, at_ms - _BEFORE * span_ms)
    return View(begin_ms, begin_ms + span_ms)
