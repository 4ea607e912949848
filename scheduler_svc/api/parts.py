"""The parts of an answer as they come: text, thoughts, and calls with ids. Knows nothing of requests."""

from collections.abc import Callable
from dataclasses import dataclass

from scheduler_svc.text.formats.pieces import Call
from scheduler_svc.text.formats.reader import AnswerReader


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A call in an answer.

    Attributes:
        index: Its number among those of the answer.
        call_id: What its result is to be given back for.
        arguments: An object of JSON, as a text.
    """

    index: int
    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Part:
    """What is new in an answer, by what it is."""

    text: str
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()


class PartReader:
    """Reads one answer.

    Args:
        reader: Finds what is in its text.
        ids: Makes ids of calls.
    """

    def __init__(self, reader: AnswerReader, ids: Callable[[], str]) -> None:
        self._reader, self._new_id = reader, ids
        self._num_calls = 0

    @property
    def has_calls(self) -> bool:
        """Whether there was a call."""
        return self._num_calls > 0

    @property
    def is_over(self) -> bool:
        """Whether nothing may follow."""
        return self._reader.is_over

    def read(self, text: str, *, is_last: bool) -> Part:
        """Returns what is new once `text` has come."""
        found = self._reader.finish(text) if is_last else self._reader.push(text)
        return Part(found.text, found.reasoning, tuple(map(self._delta, found.calls)))

    def _delta(self, call: Call) -> CallDelta:
        index, self._num_calls = self._num_calls, self._num_calls + 1
        return CallDelta(index, self._new_id(), call.name, call.arguments)
