"""What is found in an answer: text, thoughts and calls, as they become certain.

White space between these belongs to none of them. Of that around a thought or a call only what parts two texts is kept:
the white space on its side with more lines.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# White space that waits for what follows it: whoever writes nothing else for long has it shown.
MAX_HELD_CHARS = 256


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

    def begin_text(self) -> None:
        """Takes in that a text begins, with a line of its own."""
        self._text.cut("\n")

    def begin_thought(self) -> None:
        """Takes in that a thought begins, with a line of its own."""
        self._reasoning.cut("\n")

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
    """Text whose white space at the end waits for what follows it.

    Exact to the character, so that it does not matter how the text was cut into pieces.
    """

    def __init__(self) -> None:
        self._new: list[str] = []
        self._space = ""
        self._gap = ""  # what parts that which was shown from what follows, where something between them was cut out
        self._is_cut = self._is_begun = False

    def add(self, piece: str) -> None:
        text = piece.strip()
        if not text:
            self._hold(piece)
            return
        start = piece.index(text[0])
        self._hold(piece[:start])
        self._show((self._joint() if self._is_cut else self._space) + text)
        self._space, self._gap, self._is_cut = "", "", False
        self._hold(piece[start + len(text) :])

    def cut(self, joint: str = "") -> None:
        """Takes in that the text goes on behind something else, at least behind this joint."""
        self._gap = max(self._joint(), joint, key=_height)
        self._space, self._is_cut = "", True

    def end(self) -> None:
        if not self._is_cut:
            self._show(self._space)
            self._space = ""

    def take(self) -> str:
        new = "".join(self._new)
        self._new.clear()
        return new

    def _hold(self, space: str) -> None:
        """Holds white space back: its beginning behind a cut, where the rest is dropped, its end elsewhere."""
        space = self._space + space
        if self._is_cut:
            self._space = space[:MAX_HELD_CHARS]
        elif len(space) > MAX_HELD_CHARS:
            self._show(space[:-MAX_HELD_CHARS])
            self._space = space[-MAX_HELD_CHARS:]
        else:
            self._space = space

    def _show(self, text: str) -> None:
        if text:
            self._new.append(text)
            self._is_begun = True

    def _joint(self) -> str:
        return max(self._gap, self._space, key=_height) if self._is_begun else ""


def _height(space: str) -> tuple[int, int]:
    return space.count("\n"), len(space)
