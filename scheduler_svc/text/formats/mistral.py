"""Mistral: `[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]`, and newer `[TOOL_CALLS]name[ARGS]{...}` each.

Its templates take ids of nine letters and digits only.
"""

import secrets
import string
from collections.abc import Sequence

from scheduler_svc.text.formats.calls import (
    MAX_NAME_CHARS,
    Functions,
    Word,
    call_of,
    json_value,
    new_call,
    read_marked,
)
from scheduler_svc.text.formats.cursor import Malformed, Reading, TextCursor
from scheduler_svc.text.formats.lark import alternatives, arguments_rules, object_call, quoted
from scheduler_svc.text.formats.pieces import Call, Function, Sink

_BEGIN, _ID, _ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_ID_CHARS = string.ascii_letters + string.digits
_NUM_ID_CHARS = 9


class Mistral:
    """The format.

    Args:
        template: The model's chat template, which tells the newer form.
    """

    words = (_BEGIN, _ID, _ARGUMENTS)

    def __init__(self, template: str) -> None:
        self._is_newer = _ARGUMENTS in template

    def read(self, cursor: TextCursor, sink: Sink, functions: Functions) -> Reading[None]:
        """Reads an answer."""
        yield from read_marked(cursor, sink, (_BEGIN,), _read_calls)

    def rules(self, functions: Sequence[Function], word: Word, *, is_single: bool) -> str:
        """Returns the rules of calls, each on lines of its own."""
        begin, arguments = word(_BEGIN), word(_ARGUMENTS)
        if self._is_newer:
            calls = [f"{begin} {quoted(one.name)} {arguments} args_{index}" for index, one in enumerate(functions)]
            several = "call" if is_single else "call+"
        else:
            calls = [object_call(one.name, "arguments", index) for index, one in enumerate(functions)]
            several = f'{begin} "[" call "]"' if is_single else f'{begin} "[" call (", " call)* "]"'
        return "\n".join([f"calls: {several}", f"call: {alternatives(calls)}", *arguments_rules(functions)])

    def new_id(self) -> str:
        """Returns an id."""
        return "".join(secrets.choice(_ID_CHARS) for _ in range(_NUM_ID_CHARS))


def _read_calls(cursor: TextCursor, marker: str) -> Reading[Sequence[Call]]:
    yield from cursor.skip_space()
    if (yield from cursor.peek()) == "[":
        each = json_value((yield from cursor.json()))
        if not each:
            raise Malformed
        return [call_of(one) for one in each]
    name = yield from cursor.brief_before("[{", MAX_NAME_CHARS)
    if (yield from cursor.begins(_ID)):
        yield from cursor.brief_before("[", MAX_NAME_CHARS)
    yield from cursor.begins(_ARGUMENTS)
    arguments = json_value((yield from cursor.json()))
    return [new_call(name.strip(), arguments)]
