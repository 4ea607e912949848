"""What all formats of calls share: the interface, and how a call is made of what a model wrote."""

import json
import math
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, Protocol, TypeAlias

from scheduler_svc.text.formats.cursor import MAX_JSON_DEPTH, Malformed, Reading, TextCursor
from scheduler_svc.text.formats.pieces import Call, Function, Sink

MAX_NAME_CHARS, MAX_KEY_CHARS = 256, 1024
Functions: TypeAlias = Mapping[str, Function]
# Writes a marker as a grammar has it, which differs for tokens that are no text.
Word: TypeAlias = Callable[[str], str]
# Reads one call, or several that stand together, behind a marker; raises Malformed for what is none.
ReadCalls: TypeAlias = Callable[[TextCursor, str], Reading[Sequence[Call]]]


class CallFormat(Protocol):
    """One way in which models write calls."""

    @property
    def words(self) -> tuple[str, ...]:
        """Texts that may be tokens of their own, and are needed to read calls."""

    def read(self, cursor: TextCursor, sink: Sink, functions: Functions) -> Reading[None]:
        """Reads an answer; what is no call is text."""

    def rules(self, functions: Sequence[Function], word: Word, *, is_single: bool) -> str:
        """Returns rules of a Lark grammar in which `calls` is one call, or also several."""

    def new_id(self) -> str:
        """Returns an id for a call, as templates of such models take it."""


class CallIds:
    """Ids as OpenAI makes them."""

    def new_id(self) -> str:
        """Returns a new one."""
        return f"call_{secrets.token_hex(12)}"


def read_marked(cursor: TextCursor, sink: Sink, markers: Sequence[str], read_calls: ReadCalls) -> Reading[None]:
    """Reads an answer in which markers begin calls; what is malformed is text, in which others may begin."""
    while (marker := (yield from cursor.until(markers, sink.text))) is not None:
        cursor.mark()
        try:
            calls = yield from read_calls(cursor, marker)
        except Malformed:
            sink.text(marker)
            if not cursor.back():
                sink.text(cursor.taken)
        else:
            for call in calls:
                sink.call(call)


def json_value(text: str) -> Any:
    """Returns the value of a JSON text; raises Malformed for what is none, is too deep, or can't be written again."""
    try:
        value = json.loads(text, strict=False, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        raise Malformed from None
    level = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        level = [part for one in level for part in _parts(one)]
        if not level:
            return value
    raise Malformed


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def call_of(value: Any) -> Call:
    """Returns the call that an object describes; raises Malformed if it does not describe one."""
    if not isinstance(value, dict):
        raise Malformed
    arguments = value.get("arguments", value.get("parameters", {}))
    return new_call(value.get("name"), json_value(arguments) if isinstance(arguments, str) else arguments)


def new_call(name: Any, arguments: Any) -> Call:
    """Returns a call; raises Malformed unless it has a name and an object of arguments."""
    is_name = isinstance(name, str) and 1 <= len(name) <= MAX_NAME_CHARS and name.isascii() and name.isprintable()
    if not is_name or not isinstance(arguments, dict):
        raise Malformed
    return Call(name, _written(arguments))


def _written(arguments: Mapping[str, Any]) -> str:
    """JSON can name halves of characters, which can't be sent as they are."""
    text = json.dumps(arguments, ensure_ascii=False)
    return text if _is_whole(text) else json.dumps(arguments)


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(digits)
    return value
