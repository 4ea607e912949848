"""Shows a load while it runs: two lanes in a terminal, or plain lines elsewhere. Decides nothing.

Its times count from when a request was sent; those of the report, from when it should have been.
"""

import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from qllm.client.bench.load.load import Load
from qllm.client.bench.load.target import Ask, Chunk
from qllm.client.bench.load.workload import BE, CLASSES, LS
from qllm.client.messages import RequestClass
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

_NUM_ROWS = {LS: 6, BE: 12}
_REFRESHES_PER_S = 5
_PLAIN_EVERY_S = 2.0


@dataclass(slots=True)
class Row:
    """One request as it is shown.

    Attributes:
        number: The how-manieth request of its class it is in this part of the demo, from 1 on.
    """

    ask: Ask
    number: int
    sent_s: float
    text: str = ""
    num_tokens: int = 0
    ttft_ms: float | None = None
    is_over: bool = False


class Show:
    """Hears of requests, as a watcher, of phases, as a run's display, and which part of the demo runs; shows nothing.

    A context manager. Subclasses draw what it keeps: the rows of each class, and the service's counters.
    """

    def __init__(self) -> None:
        self.title = ""
        self.phase = ""
        self.lanes: dict[RequestClass, deque[Row]] = {name: deque() for name in CLASSES}
        self.counters: Mapping[str, int] = {}
        self._num_sent: Counter[RequestClass] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def entitle(self, title: str) -> None:
        """A new part begins: the lanes are empty again."""
        self.title, self.phase = title, ""
        self.lanes = {name: deque() for name in CLASSES}
        self.counters = {}
        self._num_sent.clear()

    def begin(self, phase: str, seconds: float | None = None) -> None:
        """A phase of a part begins, and will take so long, if that is known."""
        self.phase = f"{phase}, {seconds:.0f} s" if seconds else phase

    def update(self, elapsed_s: float, load: Load) -> None:
        """So much of the phase has passed."""

    def sent(self, ask: Ask) -> None:
        """Adds a row; where the lane is full, the oldest ones that are over leave."""
        lane = self.lanes[ask.request_class]
        while len(lane) >= _NUM_ROWS[ask.request_class] and (over := next((row for row in lane if row.is_over), None)):
            lane.remove(over)
        self._num_sent[ask.request_class] += 1
        lane.append(Row(ask, self._num_sent[ask.request_class], time.perf_counter()))

    def received(self, ask: Ask, chunk: Chunk) -> None:
        """Adds the text to the request's row."""
        if row := self.row_of(ask):
            row.text += chunk.text
            row.num_tokens += chunk.num_tokens
            if row.ttft_ms is None:
                row.ttft_ms = (time.perf_counter() - row.sent_s) * 1e3

    def ended(self, ask: Ask) -> None:
        """Marks the request's row."""
        if row := self.row_of(ask):
            row.is_over = True

    def counted(self, counters: Mapping[str, int]) -> None:
        """Takes the service's counters, unless it did not tell them."""
        self.counters = counters or self.counters

    def row_of(self, ask: Ask) -> Row | None:
        """Returns the request's row; None if it has left its lane."""
        return next((row for row in self.lanes[ask.request_class] if row.ask is ask), None)


class PlainShow(Show):
    """Writes a line for each part, phase and latency-sensitive answer, and one on preemptions every few seconds."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._next_line_s = 0.0

    def entitle(self, title: str) -> None:
        """Writes the part's title."""
        super().entitle(title)
        self._print(f"== {title}")

    def begin(self, phase: str, seconds: float | None = None) -> None:
        """Writes the phase."""
        super().begin(phase, seconds)
        self._print(f" - {self.phase}")

    def ended(self, ask: Ask) -> None:
        """Writes the times of a latency-sensitive answer."""
        super().ended(ask)
        row = self.row_of(ask)
        if ask.request_class is LS and row is not None and row.ttft_ms is not None:
            total_ms = (time.perf_counter() - row.sent_s) * 1e3
            times = f"first token {row.ttft_ms:7.1f} ms, complete {total_ms:7.1f} ms"
            self._print(f"   latency-sensitive request {row.number:3}: {times}")

    def counted(self, counters: Mapping[str, int]) -> None:
        """Writes the counters, not too often."""
        super().counted(counters)
        if time.monotonic() >= self._next_line_s:
            self._next_line_s = time.monotonic() + _PLAIN_EVERY_S
            self._print(f"   {_counted(self.counters)}")

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class LiveShow(Show):
    """Draws a lane for each class, refreshed in place."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._is_stopped = False
        self._live = Live(console=console, auto_refresh=False, get_renderable=self._draw)
        self._next_refresh_s = 0.0

    def __enter__(self) -> Self:
        """Begins to draw."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leaves the last picture standing."""
        self._live.stop()

    def entitle(self, title: str) -> None:
        """Clears the lanes for the next part."""
        super().entitle(title)
        self._is_stopped = False
        self._live.refresh()

    def begin(self, phase: str, seconds: float | None = None) -> None:
        """Shows the phase."""
        super().begin(phase, seconds)
        self._live.refresh()

    def sent(self, ask: Ask) -> None:
        """Shows the request."""
        super().sent(ask)
        self._refresh()

    def received(self, ask: Ask, chunk: Chunk) -> None:
        """Shows the text."""
        super().received(ask, chunk)
        self._refresh()

    def counted(self, counters: Mapping[str, int]) -> None:
        """Sees whether best-effort work was stopped since the last time, and shows it."""
        num_stops = _num_stops(self.counters)
        super().counted(counters)
        self._is_stopped = _num_stops(self.counters) > num_stops
        self._refresh()

    def _refresh(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_refresh_s:
            self._next_refresh_s = now_s + 1 / _REFRESHES_PER_S
            self._live.refresh()

    def _draw(self) -> RenderableType:
        be_title = "BEST EFFORT  stopped inside a layer" if self._is_stopped else "BEST EFFORT"
        be_style = "bold yellow" if self._is_stopped else "blue"
        return Group(
            Text.assemble((self.title, "bold"), f"  {self.phase}"),
            Panel(_lane(self.lanes[LS], _NUM_ROWS[LS]), title="LATENCY SENSITIVE", border_style="green"),
            Panel(_lane(self.lanes[BE], _NUM_ROWS[BE]), title=be_title, border_style=be_style),
            Text(_counted(self.counters)),
        )


def make_show(console: Console) -> Show:
    """Returns the show that suits the console."""
    return LiveShow(console) if console.is_terminal else PlainShow(console)


def _lane(rows: deque[Row], num_rows: int) -> Table:
    """Returns a table that always has `num_rows` rows, so that the picture stands still."""
    table = Table.grid(padding=(0, 1))
    table.add_column(width=5, justify="right")
    table.add_column(width=22)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    table.expand = True
    shown = list(rows)[-num_rows:]
    for row in shown:
        table.add_row(f"#{row.number}", _progress(row), Text(_tail(row.text), style="dim" if row.is_over else ""))
    for _ in range(num_rows - len(shown)):
        table.add_row("", "", "")
    return table


def _progress(row: Row) -> Text:
    if row.ttft_ms is None:
        return Text("waiting", style="dim")
    return Text(f"{row.num_tokens:3} tokens {row.ttft_ms:7.0f} ms", style="dim" if row.is_over else "bold")


def _tail(text: str) -> str:
    """Returns the last few words on one line, without control characters."""
    return "".join(character if character.isprintable() else " " for character in text[-60:])


def _num_stops(counters: Mapping[str, int]) -> int:
    return counters.get("num_preemptions_at_layer", 0) + counters.get("num_preemptions_at_expert", 0)


def _counted(counters: Mapping[str, int]) -> str:
    at_expert, at_layer = (counters.get(f"num_preemptions_at_{place}", 0) for place in ("expert", "layer"))
    num_be_tokens = counters.get("be_num_generated_tokens", 0)
    return (
        f"best-effort work stopped {at_expert} times between experts, {at_layer} times between layers; "
        f"{num_be_tokens} tokens of it"
    )
