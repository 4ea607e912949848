"""Reads JSON that callers write, in bodies and inside of texts, and takes only what can be written again.

Python reads more than can be sent on: NaN and Infinity, numbers that no float holds, and halves of characters, which
JSON can name (a surrogate without its other half). Each is refused here, by its place in the text, and nowhere else.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import TypeAlias

from scheduler_svc.errors import InvalidRequest

_Place: TypeAlias = tuple[str, object]
_MAX_FIELD_CHARS = 100
# What each text with such a value has, and few others: only they are looked through. A number with an exponent below
# 100 and fewer than 200 digits is below 1e308.
_SUSPECT = re.compile(r"\\u[dD][89a-fA-F]|NaN|Infinity|[0-9][eE]\+?[0-9]{3}|(?<![0-9])[0-9]{200}")
_NUMBERS = "a finite number"
_TEXTS = "a string without halves of surrogate pairs"


def read_json(text: str | bytes, field: str = "") -> object:
    """Returns the value; `field` is what the whole of it is called in errors.

    Raises:
        ValueError: It is no JSON, or no text at all; a JSONDecodeError knows where.
        RecursionError: It is nested too deeply.
        InvalidRequest: It has a value that JSON can't hold.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text))  # strictly: json.loads lets encoded halves of characters pass
    value: object = json.loads(text)
    if _SUSPECT.search(text) is not None and not _is_writable(value):
        _refuse_first(value, field)
    return value


def _is_writable(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return False
    return True


def _refuse_first(value: object, field: str) -> None:
    """Refuses the first value, in the order of the text, that can't be written."""
    left = [(field, value)]
    while left:
        place, one = left.pop()
        if isinstance(one, str) and not _is_whole(one):
            raise InvalidRequest(_named(place), one, _TEXTS)
        if isinstance(one, float) and not math.isfinite(one):
            raise InvalidRequest(_named(place), one, _NUMBERS)
        left += reversed([*_parts(place, one)])


def _parts(place: str, one: object) -> Iterator[_Place]:
    if isinstance(one, dict):
        for name, value in one.items():
            inner = f"{place}.{name}" if place else name
            if not _is_whole(name):
                yield inner, name
            yield inner, value
    elif isinstance(one, list):
        for index, value in enumerate(one):
            yield f"{place}[{index}]", value


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _named(place: str) -> str:
    """Returns the name of a place, which may itself have halves of characters."""
    return place[:_MAX_FIELD_CHARS].encode(errors="backslashreplace").decode() or "body"
