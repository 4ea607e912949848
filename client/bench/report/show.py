"""Brings results to the user: tables on the terminal, files where they were asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from qllm.client.bench.errors import BenchError
from qllm.client.bench.options.target import FigureOptions
from qllm.client.bench.report.grid import Grid
from qllm.client.bench.report.html import Page
from qllm.client.bench.results.result_file import Provenance
from rich.console import Console

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_FILE_WIDTH = 130  # columns of a table that goes into a file or a pipe


@dataclass(frozen=True, slots=True)
class Report:
    """What is shown of some results.

    Attributes:
        title: What they are about.
        lead: One line more about them.
        grids: Their tables.
        warnings: What to know before trusting them.
        draw: Draws their figure; called only if a file needs it.
        provenances: How they came to be.
        json: What their JSON file holds; None if they have none.
    """

    title: str
    lead: str
    grids: Sequence[Grid]
    warnings: Sequence[str]
    draw: "Callable[[], Figure]"
    provenances: Sequence[Provenance]
    json: str | None = None

    def show(self, results: FigureOptions, json_file: Path | None = None) -> None:
        """Prints tables and warnings, and writes the files that were asked for.

        Raises:
            BenchError: A file cannot be written.
        """
        show_tables(self.grids, self.warnings, json_file, self.json)
        if results.wants_figures:
            self._write_figures(results)

    def _write_figures(self, results: FigureOptions) -> None:
        from qllm.client.bench.report import figures

        figure = self.draw()
        if results.png is not None:
            _write(results.png, figures.to_png(figure))
        if results.html is not None:
            svg = figures.to_svg(figure, salt=self.title)
            page = Page(self.title, self.lead, self.warnings, [svg], self.grids, self.provenances)
            _write(results.html, page.render().encode())


def show_tables(
    grids: Sequence[Grid], warnings: Sequence[str], json_file: Path | None = None, json: str | None = None
) -> None:
    """Prints tables and warnings, and writes the JSON file if there is one to write.

    Raises:
        BenchError: The file cannot be written.
    """
    console = Console()
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    for grid in grids:
        console.print(grid.to_table())
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    if json_file is not None and json is not None:
        _write(json_file, json.encode())


def check_figures_can_be_drawn(results: FigureOptions) -> None:
    """Raises MissingExtra before anything is measured, rather than after."""
    if results.wants_figures:
        import qllm.client.bench.report.figures  # noqa: F401 - importing it finds out


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror}") from error
    typer.echo(f"wrote {path}", err=True)
