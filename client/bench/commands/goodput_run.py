"""The order of events of one search for goodput on one server: idle baseline, then level after level until it is found.

What to measure next is decided elsewhere (`results.goodput_search`), and how a level is measured too (`load.levels`).
"""

import asyncio
from collections.abc import Iterable, Sequence

from qllm.client.bench.commands.measure import label_of
from qllm.client.bench.load.levels import Levels
from qllm.client.bench.load.measurement import Measurement
from qllm.client.bench.load.record import RequestRow
from qllm.client.bench.load.run import Ready, get_ready, running_load, unless
from qllm.client.bench.load.target import Target
from qllm.client.bench.options.goodput import GoodputOptions
from qllm.client.bench.report.goodput_tables import clients, level_line
from qllm.client.bench.report.progress import ProgressBar
from qllm.client.bench.results.goodput import Level, ServerGoodput, tally_of
from qllm.client.bench.results.goodput_search import GoodputSearch
from qllm.client.bench.results.result_file import Provenance
from qllm.client.bench.results.summary import tpot_spread, ttft_spread


class ServerSearch:
    """A search on one server, and what it came to so far.

    Args:
        options: What is searched for.
        ready: The server.
        label: What it is called; None: what it says that it is.
        bar: Shows how far it is.
    """

    def __init__(self, options: GoodputOptions, ready: Ready, label: str | None, bar: ProgressBar) -> None:
        self._options = options
        self._ready = ready
        self._label = label or label_of(ready.facts)
        self._bar = bar
        self._idle = [RequestRow.of(record, 0.0) for record in ready.idle]
        self._objective = options.targets.objective(self._idle)
        self._search = GoodputSearch(options.rule, options.max_be_clients)
        self._windows: dict[int, list[Measurement]] = {}

    async def run(self, levels: Levels, stop: asyncio.Event) -> None:
        """Measures level after level until the search is over, or `stop` is set."""
        while not stop.is_set() and (step := self._search.step) is not None:
            self._bar.entitle(f"{self._label}, {clients(step.num_be_clients)}")
            self._take(step.num_be_clients, await levels.measure(step.num_be_clients, step.num_windows))

    def found(self, provenance: Provenance, *, is_interrupted: bool) -> ServerGoodput | None:
        """Returns what was found; None if no window was measured."""
        if not self._windows:
            return None
        of_all = [window for windows in self._windows.values() for window in windows]
        return ServerGoodput(
            label=self._label,
            provenance=provenance,
            target=self._ready.facts,
            is_interrupted=is_interrupted,
            goal=self._options.attainment,
            targets=self._options.targets,
            objective=self._objective,
            idle_ttft=ttft_spread(self._idle),
            idle_tpot=tpot_spread(self._idle),
            levels=tuple(self._level(num_be_clients) for num_be_clients in self._windows),
            messages=_messages(of_all),
        )

    def _take(self, num_be_clients: int, windows: Sequence[Measurement]) -> None:
        if not windows:
            return
        self._windows.setdefault(num_be_clients, []).extend(windows)
        self._search.take(tally_of(windows, self._objective))
        level = self._level(num_be_clients)
        if level.is_decided:
            self._bar.note(level_line(self._label, level))

    def _level(self, num_be_clients: int) -> Level:
        return Level.of(num_be_clients, self._windows[num_be_clients], self._objective, self._options.rule)


async def search_server(
    target: Target,
    options: GoodputOptions,
    provenance: Provenance,
    bar: ProgressBar,
    stop: asyncio.Event,
    *,
    label: str | None = None,
    chat: bool = False,
) -> ServerGoodput | None:
    """Searches one server; once `stop` is set, ends early with what was found.

    Returns:
        What was found; None if it was stopped before a window was over.

    Raises:
        TargetFailed: The server cannot be measured.
    """
    crowd = options.crowd()
    plan = options.plan(crowd, chat=chat)
    ready = await unless(stop, get_ready(target, plan, bar))
    if ready is None:
        return None
    search = ServerSearch(options, ready, label, bar)
    async with running_load(target, plan, ready.prompts, bar, stop) as watch:
        await search.run(Levels(plan, crowd, watch), stop)
    return search.found(provenance, is_interrupted=stop.is_set())


def _messages(windows: Iterable[Measurement]) -> dict[str, str]:
    """Returns one message for each kind of failure, the first that came."""
    messages: dict[str, str] = {}
    for window in windows:
        messages = {**window.messages, **messages}
    return messages
