"""`qllm-client bench compare`: several results side by side."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from client.bench.options.target import FigureOptions
from client.bench.report.show import Report, check_figures_can_be_drawn
from client.bench.report.tables import comparison_grid, warnings
from client.bench.results.result_file import Result, read_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def compare(paths: Sequence[Path], results: FigureOptions) -> None:
    """Reads results, shows their main figures side by side, and writes the pictures that were asked for.

    Raises:
        BadFile: A file is not a result.
    """
    results.check()
    check_figures_can_be_drawn(results)
    measured = with_own_labels([one for path in paths for one in read_results(path)])

    def draw() -> "Figure":
        from client.bench.report.figures import comparison_figure

        return comparison_figure(measured)

    Report(
        title="Benchmarks side by side",
        lead=", ".join(result.label for result in measured),
        grids=[comparison_grid(measured)],
        warnings=[f"{result.label}: {warning}" for result in measured for warning in warnings(result)],
        draw=draw,
        provenances=list({result.provenance.command: result.provenance for result in measured}.values()),
    ).show(results)


def with_own_labels(measured: Sequence[Result]) -> list[Result]:
    """Numbers labels that occur more than once."""
    counts = Counter(result.label for result in measured)
    seen: Counter[str] = Counter()
    named = []
    for result in measured:
        seen[result.label] += 1
        is_shared = counts[result.label] > 1
        label = f"{result.label} #{seen[result.label]}" if is_shared else result.label
        named.append(replace(result, label=label))
    return named
