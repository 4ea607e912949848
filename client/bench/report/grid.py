"""A table before it is drawn: text in rows and columns, for the terminal and for HTML alike."""

from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Grid:
    """Cells with a title; the first cell of a row names it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_table(self) -> Table:
        """Returns it for the terminal."""
        table = Table(*self.header, title=self.title, title_justify="left")
        table.columns[0].no_wrap = True
        for column in table.columns[1:]:
            column.justify, column.overflow = "right", "fold"
        for row in self.rows:
            table.add_row(*row)
        return table
