"""Puts tables and figures on one page that needs nothing else: no network, no scripts, no other files."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from qllm.client.bench.report.grid import Grid
from qllm.client.bench.results.result_file import Provenance

_TEMPLATE = "report.html.j2"


@dataclass(frozen=True, slots=True)
class Page:
    """What a page shows, from top to bottom; `figures` are SVG elements."""

    title: str
    lead: str
    warnings: Sequence[str]
    figures: Sequence[str]
    grids: Sequence[Grid]
    provenances: Sequence[Provenance]
    notes: Sequence[str] = ()

    def render(self) -> str:
        """Returns the page's HTML."""
        environment = Environment(
            loader=PackageLoader("qllm.client.bench.report"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
        )
        return environment.get_template(_TEMPLATE).render(
            title=self.title,
            lead=self.lead,
            warnings=self.warnings,
            figures=self.figures,
            grids=self.grids,
            notes=self.notes,
            provenances=self.provenances,
        )
