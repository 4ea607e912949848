"""How jobs are shown: a line, a table, a bar that moves, or JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from qllm.client.batches import Batch
from qllm.client.cli.bar import Bar
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import MofNCompleteColumn, TimeElapsedColumn
from rich.table import Column, Table


def as_json(batch: Batch) -> str:
    """Returns a job on one line of JSON, its fields by their names here."""
    return json.dumps(asdict(batch))


def in_words(batch: Batch) -> str:
    """Returns how a job stands, in a few words."""
    failed = f", {batch.num_failed} failed" if batch.num_failed else ""
    return f"{batch.status.value}: {batch.num_succeeded} of {batch.num_items} answered{failed}"


def jobs_table(batches: Sequence[Batch]) -> Table:
    """Returns a row for each job."""
    # Ids are whole however narrow the terminal is: they are copied.
    job = Column("job", no_wrap=True, min_width=max((len(batch.batch_id) for batch in batches), default=0))
    table = Table(job, Column("status", no_wrap=True, min_width=11), "answered", "failed", "metadata", box=SIMPLE)
    for batch in batches:
        table.add_row(
            batch.batch_id,
            batch.status.value,
            f"{batch.num_succeeded:,}/{batch.num_items:,}",
            f"{batch.num_failed:,}",
            ", ".join(f"{key}={value}" for key, value in batch.metadata.items()),
        )
    return table


def job_table(batch: Batch) -> Table:
    """Returns all that is known of one job."""
    table = Table(title=batch.batch_id, show_header=False)
    for name, value in asdict(batch).items():
        if name.endswith("_at_s"):
            table.add_row(name.removesuffix("_s"), _time(value))
        elif name == "errors":
            for error in batch.errors:
                table.add_row(f"line {error.line}", f"{error.code}: {error.message}")
        elif name == "metadata":
            for key, word in batch.metadata.items():
                table.add_row(f"metadata {key}", word)
        elif name != "batch_id":
            table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    return table


def _time(time_s: float | None) -> str:
    return "" if time_s is None else f"{datetime.fromtimestamp(time_s):%Y-%m-%d %H:%M:%S}"


class JobBar(Bar):
    """A bar that fills as items end."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, MofNCompleteColumn(), TimeElapsedColumn())

    def update(self, batch: Batch) -> None:
        """Moves the bar."""
        description = f"{batch.batch_id} {batch.status.value}"
        self._progress.update(self._task, description=description, total=batch.num_items, completed=batch.num_ended)
