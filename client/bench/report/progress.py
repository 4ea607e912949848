"""Shows a run while it goes on, on stderr: a bar, and what has come so far."""

from qllm.client.bench.load.load import Load
from qllm.client.bench.load.workload import BE, LS
from qllm.client.cli.bar import Bar
from rich.console import Console
from rich.progress import TextColumn, TimeElapsedColumn


class ProgressBar(Bar):
    """One line that tells the phase, how far it is, what is in flight, and what has come. A context manager.

    On anything but a terminal it writes one line for each phase instead.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console, TimeElapsedColumn(), TextColumn("[dim]{task.fields[seen]}"), seen="")
        self._title = ""

    def entitle(self, title: str) -> None:
        """Puts a title before the phases to come, such as the number of a round."""
        self._title = f"{title}: " if title else ""

    def begin(self, phase: str, seconds: float | None = None) -> None:
        """Starts the bar anew; without a length, it only shows that something goes on."""
        self._progress.reset(self._task, total=seconds, description=f"{self._title}{phase}", seen="")
        if not self._console.is_terminal:
            self._console.print(f"{self._title}{phase}{f', {seconds:.0f} s' if seconds else ''}", highlight=False)

    def note(self, line: str) -> None:
        """Writes a line that stays above the bar."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def update(self, elapsed_s: float, load: Load) -> None:
        """Moves the bar and counts."""
        num_failed = sum(record.is_failed for record in load.records)
        seen = f"in flight LS {load.num_in_flight[LS]}, BE {load.num_in_flight[BE]}; {len(load.records)} sent"
        self._progress.update(
            self._task, completed=elapsed_s, seen=f"{seen}, {num_failed} failed" if num_failed else seen
        )
