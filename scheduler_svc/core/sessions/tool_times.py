"""How long tools took: the last durations of each tool by its name, and of all tools together, in bounded memory.

Lives longer than a worker, and may be kept on disk by whoever owns it. Knows no sequence and no clock.
"""

from collections import OrderedDict
from collections.abc import Iterable

from scheduler_svc.core.sessions.durations import Durations

MAX_DURATIONS = 1000
MAX_TOOLS = 256
MAX_DURATION_S = 3600.0

# A tool's name, or None for all tools, and its durations in seconds, the oldest first.
ToolRecord = tuple[str | None, list[float]]


class ToolTimes:
    """The durations of tools.

    Of a tool whose durations are not known, the name is empty. That is a tool like any other.

    Args:
        max_durations: How many durations of one tool are kept, and of all together.
        max_tools: How many tools are kept; a further one replaces the one that was used longest ago.

    Attributes:
        num_recorded: Durations that were recorded since it was made. It tells whether there is anything new.
    """

    def __init__(self, *, max_durations: int = MAX_DURATIONS, max_tools: int = MAX_TOOLS) -> None:
        self._max_durations = max_durations
        self._max_tools = max_tools
        self._of_all = Durations(most=max_durations)
        self._by_tool: OrderedDict[str, Durations] = OrderedDict()
        self.num_recorded = 0

    @property
    def num_tools(self) -> int:
        """Tools of which anything is known."""
        return len(self._by_tool)

    def record(self, tool: str, duration_s: float) -> None:
        """Notes how long a tool took; one that took longer than an hour counts as an hour."""
        duration_s = min(max(0.0, duration_s), MAX_DURATION_S)
        self._of_all.add(duration_s)
        self._by_tool.setdefault(tool, Durations(most=self._max_durations)).add(duration_s)
        self._by_tool.move_to_end(tool)
        if len(self._by_tool) > self._max_tools:
            self._by_tool.popitem(last=False)
        self.num_recorded += 1

    def expected_of(self, tool: str, enough: int) -> list[float] | None:
        """Returns the durations in seconds to expect of a tool, in ascending order and not to be changed.

        Args:
            tool: Its name.
            enough: With fewer records than so many of it, those of all tools stand for it.

        Returns:
            None where there are fewer than `enough` of all tools, too.
        """
        own = self._by_tool.get(tool)
        if own is not None and len(own) >= enough:
            return own.by_length
        return self._of_all.by_length if len(self._of_all) >= enough else None

    def snapshot(self) -> list[ToolRecord]:
        """Returns a copy of all that is known, as plain data: first of all tools, then of each, that used last last."""
        each: list[ToolRecord] = [(tool, durations.by_age) for tool, durations in self._by_tool.items()]
        return [(None, self._of_all.by_age), *each]

    def restore(self, records: Iterable[object]) -> None:
        """Replaces what is known by a snapshot's records; what goes beyond the bounds is left out, the oldest first.

        Raises:
            ValueError: They are no records; then nothing has changed.
        """
        tools: OrderedDict[str, Durations] = OrderedDict()
        of_all: Durations | None = None
        for number, record in enumerate(records):
            tool, seconds = _checked(record, f"record {number}")
            durations = Durations(seconds, most=self._max_durations)
            if tool is None:
                of_all = durations
            else:
                tools[tool] = durations
        if of_all is None:
            raise ValueError("the record of all tools is missing")
        while len(tools) > self._max_tools:
            tools.popitem(last=False)
        self._of_all, self._by_tool = of_all, tools


def _checked(record: object, place: str) -> ToolRecord:
    if not isinstance(record, (list, tuple)) or len(record) != 2:
        raise ValueError(f"{place}: allowed is a pair of a tool's name and its durations")
    tool, seconds = record
    if tool is not None and not isinstance(tool, str):
        raise ValueError(f"{place}: got {tool!r}, allowed is a tool's name, or nothing for all tools")
    if not isinstance(seconds, list) or not all(map(_is_duration, seconds)):
        raise ValueError(f"{place}: allowed is a list of durations, each from 0 to {MAX_DURATION_S:g} seconds")
    return tool, [float(each) for each in seconds]


def _is_duration(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MAX_DURATION_S
