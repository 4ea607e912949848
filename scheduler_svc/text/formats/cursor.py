"""Reads a text that comes in pieces, so that what is found in it does not depend on how it is cut.

A reader is a generator that yields where it needs more. It sees one character after the other, and whether the text is
over; it never sees where a piece ends. Pure; a piece costs the same however long the text is.
"""

from collections.abc import Callable, Generator, Sequence
from typing import TypeAlias, TypeVar

from scheduler_svc.text.overlap import overlap

Result = TypeVar("Result")
# Yields wherever more of the text is needed.
Reading: TypeAlias = Generator[None, None, Result]

MAX_JSON_DEPTH = 64
# Characters of one text that are read a second time, since what they seemed to be was not whole.
MAX_READ_AGAIN = 65_536
_OPENING, _CLOSING = "{[", "}]"
# What may stand in JSON outside of strings.
_PLAIN = frozenset(" \t\r\n:,+-.0123456789eEtrufalsn")


class Malformed(Exception):
    """The text is not what was expected."""


class TextCursor:
    """A place in a text. What was taken since `mark` can be had again, to be shown as it is."""

    def __init__(self) -> None:
        self._text, self._at = "", 0
        self._taken: list[str] = []
        self._num_again = MAX_READ_AGAIN
        self._is_over = False

    def feed(self, piece: str) -> None:
        """Adds what follows."""
        self._text, self._at = self._text[self._at :] + piece, 0

    def end(self) -> None:
        """Says that nothing follows."""
        self._is_over = True

    def mark(self) -> None:
        """Forgets what was taken until now."""
        self._taken = []

    @property
    def taken(self) -> str:
        """What was taken since the last mark."""
        return "".join(self._taken)

    def back(self) -> bool:
        """Goes back to the mark, so that what was taken since is read again; not where that is too much in all."""
        num_chars = sum(map(len, self._taken))
        if num_chars > self._num_again:
            return False
        self._num_again -= num_chars
        if num_chars <= self._at:
            self._at -= num_chars
        else:  # other pieces have come since
            self._text, self._at = self.taken + self._text[self._at :], 0
        self._taken = []
        return True

    def wait(self) -> Reading[None]:
        """Waits for the text to begin."""
        yield

    def peek(self) -> Reading[str]:
        """Returns the next character; empty at the end of the text."""
        while self._at >= len(self._text):
            if self._is_over:
                return ""
            yield
        return self._text[self._at]

    def next(self) -> str:
        """Takes the character that was peeked at."""
        return self._take(1)

    def until(self, markers: Sequence[str], emit: Callable[[str], None]) -> Reading[str | None]:
        """Hands out text up to the first marker, and takes that, too; returns it, or None at the end of the text.

        None of the markers may be a part of another one.
        """
        while True:
            found = [(at, marker) for marker in markers if (at := self._text.find(marker, self._at)) >= 0]
            if found:
                at, marker = min(found)
                emit(self._take(at - self._at))
                return self._take(len(marker))
            rest = self._text[self._at :]
            held = 0 if self._is_over else max((overlap(rest, marker) for marker in markers), default=0)
            emit(self._take(len(rest) - held))
            if self._is_over:
                return None
            yield

    def text_until(self, marker: str) -> Reading[str]:
        """Returns the text up to a marker, which is taken, too; raises Malformed if the text is over before."""
        parts: list[str] = []
        if (yield from self.until((marker,), parts.append)) is None:
            raise Malformed
        return "".join(parts)

    def brief_until(self, marker: str, most: int) -> Reading[str]:
        """Returns the text up to a marker, which is taken, too.

        Raises:
            Malformed: The text is over before, or has more characters than `most` there.
        """
        parts: list[str] = []
        while not (yield from self.begins(marker)):
            if len(parts) == most or not (yield from self.peek()):
                raise Malformed
            parts.append(self._take(1))
        return "".join(parts)

    def brief_before(self, ends: str, most: int) -> Reading[str]:
        """Returns the text up to a character that ends it, or up to the end; raises Malformed as `brief_until` does."""
        parts: list[str] = []
        while (char := (yield from self.peek())) and char not in ends:
            if len(parts) == most:
                raise Malformed
            parts.append(self._take(1))
        return "".join(parts)

    def rest(self, emit: Callable[[str], None]) -> Reading[None]:
        """Hands out all that follows."""
        yield from self.until((), emit)

    def skip_space(self) -> Reading[str]:
        """Takes white space, and returns it."""
        parts: list[str] = []
        while (char := (yield from self.peek())) and char.isspace():
            parts.append(self._take(1))
        return "".join(parts)

    def begins(self, literal: str) -> Reading[bool]:
        """Returns whether the text goes on like this, and takes it if so."""
        while len(rest := self._text[self._at : self._at + len(literal)]) < len(literal):
            if self._is_over or not literal.startswith(rest):
                return False
            yield
        if rest != literal:
            return False
        self._take(len(literal))
        return True

    def expect(self, literal: str) -> Reading[None]:
        """Takes what has to stand here; raises Malformed if it does not."""
        if not (yield from self.begins(literal)):
            raise Malformed

    def close(self, literal: str) -> Reading[None]:
        """Takes what ends something, of which the end of the text may cut off any part."""
        for expected in literal:
            if not (char := (yield from self.peek())):
                return
            if char != expected:
                raise Malformed
            self._take(1)

    def json(self) -> Reading[str]:
        """Takes an object or a list of JSON, and returns its text, in which only brackets were looked at.

        Raises:
            Malformed: There is none here, it is too deep, or the text is over before.
        """
        if (yield from self.peek()) not in tuple(_OPENING):
            raise Malformed
        parts: list[str] = []
        scan = _JsonScan()
        while (yield from self.peek()):
            num_chars = scan.scan(self._text, self._at)
            parts.append(self._take(num_chars))
            if scan.is_whole:
                return "".join(parts)
            if scan.is_broken:
                break
        raise Malformed

    def _take(self, num_chars: int) -> str:
        taken = self._text[self._at : self._at + num_chars]
        self._at += num_chars
        self._taken.append(taken)
        return taken


class _JsonScan:
    """Where a JSON text stands: how deep, and whether in a string."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_in_string = self._is_escaped = False
        self.is_whole = self.is_broken = False

    def scan(self, text: str, at: int) -> int:
        """Goes on from a place to the end of the value, or of the text; returns how many characters are of it."""
        for index in range(at, len(text)):
            char = text[index]
            if self._is_in_string:
                self._scan_string(char)
            elif char == '"':
                self._is_in_string = True
            elif char in _OPENING:
                self._depth += 1
                self.is_broken = self._depth > MAX_JSON_DEPTH
            elif char in _CLOSING:
                self._depth -= 1
                self.is_whole = self._depth == 0
            else:
                self.is_broken = char not in _PLAIN
            if self.is_whole:
                return index + 1 - at
            if self.is_broken:
                return index - at
        return len(text) - at

    def _scan_string(self, char: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif char == "\\":
            self._is_escaped = True
        elif char == '"':
            self._is_in_string = False
