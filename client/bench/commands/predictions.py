"""`qllm-client bench predictions`: how well the scheduler foresaw the worker's steps, from a recorded trace."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer
from qllm.client.bench.console import complaining
from qllm.client.bench.errors import BenchError
from qllm.client.bench.report.grid import Grid
from qllm.client.bench.results.recorded_trace import RecordedTrace, read_trace
from rich.console import Console

_PERIODS_S = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, math.inf)


@dataclass(frozen=True, slots=True)
class Period:
    """Part of a trace, in seconds from its first step.

    Attributes:
        errors: Measured over predicted time of each step in it, sorted.
        total: All measured time over all predicted time.
    """

    begin_s: float
    end_s: float
    errors: tuple[float, ...]
    total: float


def predictions(
    trace_file: Annotated[
        Path, typer.Argument(metavar="TRACE.json", help="Names the file that qllm-scheduler --trace wrote.")
    ],
    png: Annotated[Path | None, typer.Option(help="Names the picture to write.")] = None,
) -> None:
    """Compares predicted with measured times of the worker's steps, over time.

    Steps that were cut short are left out: nobody predicted them. A ratio of 2 means that work took twice as long as
    the scheduler thought when it sent it.
    """
    with complaining():
        trace = read_trace(trace_file)
        Console().print(predictions_grid(periods(trace)).to_table())
        if png is not None:
            _draw(trace, png)


def periods(trace: RecordedTrace) -> list[Period]:
    """Returns the errors by period, without periods in which no step ended.

    Raises:
        BenchError: The trace holds no step with a prediction.
    """
    steps = [step for step in trace.steps if step.predicted_ms and step.measured_ms > 0]
    if not steps:
        raise BenchError("the trace holds no step that was predicted and ran to its end")
    first_ms = steps[0].begin_ms
    found = []
    for begin_s, end_s in pairwise(_PERIODS_S):
        inside = [step for step in steps if begin_s <= (step.begin_ms - first_ms) / 1e3 < end_s]
        pairs = [(step.measured_ms, step.predicted_ms or 0.0) for step in inside]
        if pairs:
            errors = tuple(sorted(measured / predicted for measured, predicted in pairs))
            total = math.fsum(measured for measured, _ in pairs) / math.fsum(predicted for _, predicted in pairs)
            found.append(Period(begin_s, end_s, errors, total))
    return found


def predictions_grid(found: Sequence[Period]) -> Grid:
    """Returns the table of some periods."""
    rows = [
        (
            f"{p.begin_s:g} to {p.end_s:g} s" if math.isfinite(p.end_s) else f"from {p.begin_s:g} s on",
            str(len(p.errors)),
            *(f"{_quantile(p.errors, share):.2f}x" for share in (0.1, 0.5, 0.9)),
            f"{p.total:.2f}x",
        )
        for p in found
    ]
    header = ("since the first step", "steps", "p10", "median", "p90", "sum of times")
    return Grid("Measured over predicted time of the worker's steps", header, tuple(rows))


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[max(math.ceil(len(ordered) * share), 1) - 1]


def _draw(trace: RecordedTrace, png: Path) -> None:
    from qllm.client.bench.report.figures import to_png
    from qllm.client.bench.report.predictions_figure import draw_predictions

    picture = to_png(draw_predictions(trace))
    try:
        png.write_bytes(picture)
    except OSError as error:
        raise BenchError(f"--png: {png} cannot be written: {error.strerror}") from None
