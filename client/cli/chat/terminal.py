"""Where a conversation is held: lines come in, text and notes go out. Knows nothing of models.

At a terminal lines can be edited, and Ctrl-C ends what is going on. Without one, lines are read as they are.
"""

import io
import sys
from types import ModuleType

import typer
from rich.console import Console


class Terminal:
    """Standard input and output. Notes go to standard error, so that a pipe gets answers alone."""

    def __init__(self) -> None:
        self.is_interactive = sys.stdin.isatty()
        self._is_inside_a_line = self._is_inside_thoughts = False
        self._notes = Console(stderr=True)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows "?" for it
        self._readline = _readline() if self.is_interactive else None

    def read(self, prompt: str) -> str | None:
        """Returns the next line; None once there is none: at its end, or with Ctrl-C where nothing was typed.

        Raises:
            UnicodeDecodeError: It is no UTF-8 text.
        """
        if not self.is_interactive:
            return sys.stdin.buffer.readline().decode() or None
        while True:
            try:
                return input(prompt)
            except EOFError:
                typer.echo()
                return None
            except KeyboardInterrupt:
                typer.echo()
                if self._readline is None or not self._readline.get_line_buffer():
                    return None

    def write(self, text: str) -> None:
        """Shows a piece of an answer at once."""
        if text:
            self._end_thoughts()
            typer.echo(text, nl=False)
            self._is_inside_a_line = not text.endswith("\n")

    def think(self, text: str) -> None:
        """Shows a piece of what the model thinks at once, as a note."""
        if text:
            self._end_answer()
            self._notes.print(text, style="dim", markup=False, highlight=False, soft_wrap=True, end="")
            self._is_inside_thoughts = not text.endswith("\n")

    def end_line(self) -> None:
        """Ends the line that `write` or `think` has begun, if one did."""
        self._end_answer()
        self._end_thoughts()

    def _end_answer(self) -> None:
        if self._is_inside_a_line:
            typer.echo()
            self._is_inside_a_line = False

    def _end_thoughts(self) -> None:
        if self._is_inside_thoughts:
            self._notes.print()
            self._is_inside_thoughts = False

    def note(self, text: str) -> None:
        """Says something that is not the model's."""
        self.end_line()
        self._notes.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


def _readline() -> ModuleType | None:
    """Lets lines be edited and called back, where Python was built so."""
    try:
        import readline
    except ImportError:
        return None
    return readline
