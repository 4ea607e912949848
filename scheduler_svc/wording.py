"""Writes values of requests as their senders know them: null and true as in JSON, and never more than fits in a line.

Texts stand in single quotes, since most messages are read inside of a JSON string. Knows nothing of fields.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

MAX_SHOWN_CHARS = 100


def shown(given: object) -> str:
    """Returns a value as it is shown in an error; what is not of JSON's kinds, by its repr."""
    text = ""
    for piece in _pieces(given):
        text += piece
        if len(text) > MAX_SHOWN_CHARS:
            return f"{text[: MAX_SHOWN_CHARS - 3]}..."
    return text


def in_one_line(text: str) -> str:
    """Returns a text of a library with its lines joined, and without those that only point at the line above."""
    return " ".join(word for word in text.split() if word.strip("^"))


def _pieces(given: object) -> Iterator[str]:
    """Yields the text bit by bit: of a list of a million numbers only the first are written."""
    match given:
        case None | True | False:
            yield {None: "null", True: "true", False: "false"}[given]
        case float():
            yield _number(given)
        case str():
            yield repr(given[: MAX_SHOWN_CHARS + 1])
        case bytes():
            yield f"the bytes {given[:MAX_SHOWN_CHARS].hex(' ')}"
        case Mapping():
            yield from _joined("{", ((f"{key!r}: ", value) for key, value in given.items()), "}")
        case Sequence():
            yield from _joined("[", (("", value) for value in given), "]")
        case _:
            yield repr(given)


def _joined(begin: str, items: Iterable[tuple[str, object]], end: str) -> Iterator[str]:
    yield begin
    for index, (before, value) in enumerate(items):
        yield f", {before}" if index else before
        yield from _pieces(value)
    yield end


def _number(given: float) -> str:
    if math.isnan(given):
        return "NaN"
    if math.isinf(given):
        return "Infinity" if given > 0 else "-Infinity"
    return repr(given)
