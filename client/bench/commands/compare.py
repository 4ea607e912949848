"""`qllm-client bench compare`: several results side by side."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from client.bench.options.target import FigureOptions
from client.bench.report.show import Report, check_figures_can_be_drawn
from client.bench.report.tables import comparison_grid, warnings
from client.bench.results.result_file import Recording, read_recordings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def compare(paths: Sequence[Path], results: FigureOptions) -> None:
    """Reads results, shows their main figures side by side, and writes the pictures that were asked for.

    Raises:
        BadRecording: A file is not a result.
    """
    results.check()
    check_figures_can_be_drawn(results)
    recordings = with_own_labels([one for path in paths for one in read_recordings(path)])

    def draw() -> "Figure":
        from client.bench.report.figures import comparison_figure

        return comparison_figure(recordings)

    Report(
        title="Benchmarks side by side",
        lead=", ".join(recording.label for recording in recordings),
        grids=[comparison_grid(recordings)],
        warnings=[f"{recording.label}: {warning}" for recording in recordings for warning in warnings(recording)],
        draw=draw,
        provenances=list({recording.provenance.command: recording.provenance for recording in recordings}.values()),
    ).show(results)


def with_own_labels(recordings: Sequence[Recording]) -> list[Recording]:
    """Numbers labels that occur more than once."""
    counts = Counter(recording.label for recording in recordings)
    seen: Counter[str] = Counter()
    named = []
    for recording in recordings:
        seen[recording.label] += 1
        is_shared = counts[recording.label] > 1
        label = f"{recording.label} #{seen[recording.label]}" if is_shared else recording.label
        named.append(replace(recording, label=label))
    return named
