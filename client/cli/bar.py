"""The frame of what moves on a terminal while a command waits: a spinner, words, a bar."""

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn


class Bar:
    """One line that is gone at the end; nothing on anything but a terminal. A context manager.

    Args:
        console: Where it is shown.
        columns: What stands behind the bar.
        fields: What columns show of the task besides, at first.
    """

    def __init__(self, console: Console, *columns: ProgressColumn, **fields: Any) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            *columns,
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None, **fields)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()
