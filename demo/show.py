"""Shows a load while it runs: two lanes in a terminal, or plain lines elsewhere. Measures and decides nothing."""

import time
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from client import Delta, GenerationResult, Loads, RequestClass
from demo.load import LS, Watcher

_LS_ROWS = 6
_BE_ROWS = 12
_REFRESHES_PER_S = 5
_PLAIN_EVERY_S = 2.0


@dataclass(slots=True)
class Row:
    """One request as it is shown."""

    index: int
    sent_s: float
    text: str = ""
    num_tokens: int = 0
    ttft_ms: float | None = None
    is_over: bool = False


class Show(Watcher):
    """A watcher that also hears which part of the demo runs; use it as a context manager."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def begin(self, title: str) -> None:
        """A new part begins."""

    def waiting(self, waited_s: float) -> None:
        """The service has been starting for so long."""


class PlainShow(Show):
    """Writes a line for each part and each latency-sensitive answer, and one on preemptions every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_line_s = 0.0

    def begin(self, title: str) -> None:
        """Writes the part's title."""
        self._print(f"== {title}")

    def ended(self, request_class: RequestClass, index: int, result: GenerationResult) -> None:
        """Writes the times of a latency-sensitive answer."""
        if request_class is LS and result.ttft_s is not None:
            times = f"first token {result.ttft_s * 1e3:7.1f} ms, complete {result.e2e_s * 1e3:7.1f} ms"
            self._print(f"   LS {index:3}: {times}")

    def polled(self, loads: Loads) -> None:
        """Writes the counters, not too often."""
        if time.monotonic() >= self._next_line_s:
            self._next_line_s = time.monotonic() + _PLAIN_EVERY_S
            self._print(f"   {_counters(loads)}")

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class LiveShow(Show):
    """Draws a lane for each class, refreshed in place."""

    def __init__(self, console: Console) -> None:
        self._title = ""
        self._lanes: dict[RequestClass, deque[Row]] = {}
        self._loads = Loads()
        self._num_stops = 0
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

    def begin(self, title: str) -> None:
        """Clears the lanes for the next part."""
        self._title = title
        self._lanes = {request_class: deque() for request_class in RequestClass}
        self._loads = Loads()
        self._num_stops = 0
        self._refresh(at_once=True)

    def waiting(self, waited_s: float) -> None:
        """Shows that the service is still starting."""
        self._refresh()

    def sent(self, request_class: RequestClass, index: int) -> None:
        """Adds a row; the oldest one that is over leaves when the lane is full."""
        lane = self._lanes[request_class]
        if len(lane) >= (_LS_ROWS if request_class is LS else _BE_ROWS):
            lane.remove(next((row for row in lane if row.is_over), lane[0]))
        lane.append(Row(index, time.perf_counter()))
        self._refresh()

    def received(self, request_class: RequestClass, index: int, delta: Delta) -> None:
        """Adds the text to the request's row."""
        for row in self._lanes[request_class]:
            if row.index == index:
                row.text += delta.text
                row.num_tokens += len(delta.token_ids)
                if row.ttft_ms is None and delta.token_ids:
                    row.ttft_ms = (time.perf_counter() - row.sent_s) * 1e3
        self._refresh()

    def ended(self, request_class: RequestClass, index: int, result: GenerationResult) -> None:
        """Marks the request's row."""
        for row in self._lanes[request_class]:
            row.is_over = row.is_over or row.index == index

    def polled(self, loads: Loads) -> None:
        """Takes the counters, and sees whether best-effort work was stopped since the last time."""
        num_stops = loads.num_preemptions_at_layer + loads.num_preemptions_at_expert
        self._is_stopped = num_stops > self._num_stops
        self._num_stops = num_stops
        self._loads = loads
        self._refresh()

    def _refresh(self, *, at_once: bool = False) -> None:
        now_s = time.monotonic()
        if at_once or now_s >= self._next_refresh_s:
            self._next_refresh_s = now_s + 1 / _REFRESHES_PER_S
            self._live.refresh()

    def _draw(self) -> RenderableType:
        be_title = "BEST EFFORT  stopped inside a layer" if self._is_stopped else "BEST EFFORT"
        be_style = "bold yellow" if self._is_stopped else "blue"
        return Group(
            Text(self._title, style="bold"),
            Panel(_lane(self._lanes.get(LS, ()), _LS_ROWS), title="LATENCY SENSITIVE", border_style="green"),
            Panel(
                _lane(self._lanes.get(RequestClass.BEST_EFFORT, ()), _BE_ROWS), title=be_title, border_style=be_style
            ),
            Text(_counters(self._loads)),
        )


def make_show(console: Console) -> Show:
    """Returns the show that suits the console."""
    return LiveShow(console) if console.is_terminal else PlainShow(console)


def _lane(rows: "deque[Row] | tuple[()]", num_rows: int) -> Table:
    """Returns a table that always has `num_rows` rows, so that the picture stands still."""
    table = Table.grid(padding=(0, 1))
    table.add_column(width=5, justify="right")
    table.add_column(width=22)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    table.expand = True
    for row in rows:
        table.add_row(f"#{row.index}", _progress(row), Text(_tail(row.text), style="dim" if row.is_over else ""))
    for _ in range(num_rows - len(rows)):
        table.add_row("", "", "")
    return table


def _progress(row: Row) -> Text:
    if row.ttft_ms is None:
        return Text("waiting", style="dim")
    return Text(f"{row.num_tokens:3} tokens {row.ttft_ms:7.0f} ms", style="dim" if row.is_over else "bold")


def _tail(text: str) -> str:
    """Returns the last few words on one line, without control characters."""
    return "".join(character if character.isprintable() else " " for character in text[-60:])


def _counters(loads: Loads) -> str:
    at_expert, at_layer = loads.num_preemptions_at_expert, loads.num_preemptions_at_layer
    num_be_tokens = loads.best_effort.num_generated_tokens
    return (
        f"best-effort work stopped {at_expert} times between experts, {at_layer} times between layers; "
        f"{num_be_tokens} tokens of it"
    )
