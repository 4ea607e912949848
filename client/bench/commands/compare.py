"""`qllm-client bench compare`: several results side by side, or several searches for goodput."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from qllm.client.bench.commands.goodput import report_of_goodputs
from qllm.client.bench.errors import BadFile
from qllm.client.bench.options.target import FigureOptions
from qllm.client.bench.report.show import Report, check_figures_can_be_drawn
from qllm.client.bench.report.tables import comparison_grid, warnings
from qllm.client.bench.results.goodput import GOODPUT_SCHEMA, ServerGoodput, read_goodputs
from qllm.client.bench.results.result_file import ABLATION_SCHEMA, SCHEMA, Result, read_results, read_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Named = TypeVar("Named", Result, ServerGoodput)


def compare(paths: Sequence[Path], results: FigureOptions) -> None:
    """Reads results, shows their main figures side by side, and writes the pictures that were asked for.

    Raises:
        BadFile: A file is not a result, or they are of two kinds.
    """
    results.check()
    check_figures_can_be_drawn(results)
    schemas = [read_values(path, (SCHEMA, ABLATION_SCHEMA, GOODPUT_SCHEMA))["schema"] for path in paths]
    of_goodput = [schema == GOODPUT_SCHEMA for schema in schemas]
    if any(of_goodput) and not all(of_goodput):
        raise BadFile(f"{paths[of_goodput.index(False)]}: it is of one load, others are of a search for goodput")
    if all(of_goodput):
        servers = with_own_labels([one for path in paths for one in read_goodputs(path)])
        report_of_goodputs(servers).show(results)
    else:
        _report_of(with_own_labels([one for path in paths for one in read_results(path)])).show(results)


def _report_of(measured: Sequence[Result]) -> Report:
    def draw() -> "Figure":
        from qllm.client.bench.report.figures import comparison_figure

        return comparison_figure(measured)

    return Report(
        title="Benchmarks side by side",
        lead=", ".join(result.label for result in measured),
        grids=[comparison_grid(measured)],
        warnings=[f"{result.label}: {warning}" for result in measured for warning in warnings(result)],
        draw=draw,
        provenances=list({result.provenance.command: result.provenance for result in measured}.values()),
    )


def with_own_labels(measured: Sequence[Named]) -> list[Named]:
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
