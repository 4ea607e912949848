"""What is found in an answer: text, thoughts and calls, as they become certain.

White space between these belongs to none of them: it is dropped around thoughts and calls, and kept elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Function:
    """A function that may be called.

    Attributes:
        parameters: JSON schema of its arguments, which are one object.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def is_text(self, parameter: str) -> bool:
        """Returns whether a parameter is a text whatever stands in it."""
        properties = self.parameters.get("properties")
        schema = properties.get(parameter) if isinstance(properties, dict) else None
        return isinstance(schema, dict) and schema.get("type") == "string"


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a function; the arguments are an object of JSON, as a text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Found:
    """What is new in an answer."""

    text: str = ""
    reasoning: str = ""
    calls: Sequence[Call] = ()


class Sink:
    """Takes in what is found, and hands out what is new.

    Args:
        most_calls: Further calls are dropped; None: there is no limit.
    """

    def __init__(self, most_calls: int | None = None) -> None:
        self._text, self._reasoning = _Run(), _Run()
        self._calls: list[Call] = []
        self._num_calls, self._most_calls = 0, most_calls

    @property
    def is_full(self) -> bool:
        """Whether no further call is taken in."""
        return self._num_calls == self._most_calls

    def text(self, piece: str) -> None:
        """Takes in text."""
        self._text.add(piece)

    def think(self, piece: str) -> None:
        """Takes in a part of a thought."""
        self._reasoning.add(piece)

    def begin_thought(self) -> None:
        """Takes in that a thought begins."""
        self._reasoning.cut()

    def end_thought(self) -> None:
        """Takes in that a thought is over."""
        self._reasoning.cut()
        self._text.cut()

    def call(self, call: Call) -> None:
        """Takes in a call."""
        self._text.cut()
        if not self.is_full:
            self._num_calls += 1
            self._calls.append(call)

    def end(self) -> None:
        """Takes in that nothing follows."""
        self._text.end()

    def take(self) -> Found:
        """Hands out what is new."""
        found = Found(self._text.take(), self._reasoning.take(), tuple(self._calls))
        self._calls.clear()
        return found


class _Run:
    """Text whose white space at the end waits for what follows it."""

    def __init__(self) -> None:
        self._new: list[str] = []
        self._space = ""
        self._is_cut = False  # white space that follows belongs to nothing

    def add(self, piece: str) -> None:
        piece = self._space + piece
        if self._is_cut:
            piece = piece.lstrip()
        shown = piece.rstrip()
        self._space = piece[len(shown) :]
        if shown:
            self._new.append(shown)
            self._is_cut = False

    def cut(self) -> None:
        self._space, self._is_cut = "", True

    def end(self) -> None:
        self._new.append(self._space)
        self._space = ""

    def take(self) -> str:
        new = "".join(self._new)
        self._new.clear()
        return new
