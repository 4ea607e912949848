"""DeepSeek V3 and R1, and the shorter form of V3.1: each call between tokens of its own.

V3, R1: <｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME, a new line, ```json, {...}, ```<｜tool▁call▁end｜>
V3.1:   <｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{...}<｜tool▁call▁end｜>
"""

from collections.abc import Sequence

from scheduler_svc.text.formats.calls import (
    MAX_NAME_CHARS,
    CallIds,
    Functions,
    Word,
    json_value,
    new_call,
    read_marked,
)
from scheduler_svc.text.formats.cursor import Reading, TextCursor
from scheduler_svc.text.formats.lark import alternatives, arguments_rules, quoted
from scheduler_svc.text.formats.pieces import Call, Function, Sink

_ALL_BEGIN, _ALL_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_BEGIN, _BETWEEN, _END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_FENCE_BEGIN, _FENCE_END = "```json", "```"


class DeepSeek(CallIds):
    """The format.

    Args:
        template: The model's chat template, which tells the longer form.
    """

    words = (_ALL_BEGIN, _ALL_END, _BEGIN, _BETWEEN, _END)

    def __init__(self, template: str) -> None:
        self._is_fenced = _FENCE_BEGIN in template

    def read(self, cursor: TextCursor, sink: Sink, functions: Functions) -> Reading[None]:
        """Reads an answer; what brackets all calls says nothing."""
        yield from read_marked(cursor, sink, (_ALL_BEGIN, _BEGIN, _ALL_END), _read_call)

    def rules(self, functions: Sequence[Function], word: Word, *, is_single: bool) -> str:
        """Returns the rules of calls, each on lines of its own."""
        begin, between, end = word(_BEGIN), word(_BETWEEN), word(_END)
        if self._is_fenced:
            calls = [
                f'{begin} "function" {between} {quoted(one.name + chr(10) + _FENCE_BEGIN + chr(10))} args_{index} '
                f"{quoted(chr(10) + _FENCE_END)} {end}"
                for index, one in enumerate(functions)
            ]
        else:
            calls = [f"{begin} {quoted(one.name)} {between} args_{index} {end}" for index, one in enumerate(functions)]
        several = "call" if is_single else 'call ("\\n" call)*' if self._is_fenced else "call+"
        return "\n".join(
            [
                f"calls: {word(_ALL_BEGIN)} {several} {word(_ALL_END)}",
                f"call: {alternatives(calls)}",
                *arguments_rules(functions),
            ]
        )


def _read_call(cursor: TextCursor, marker: str) -> Reading[Sequence[Call]]:
    if marker != _BEGIN:
        return []
    name = yield from cursor.brief_until(_BETWEEN, MAX_NAME_CHARS)
    if is_fenced := name.strip() == "function":
        name = yield from cursor.brief_until(_FENCE_BEGIN, MAX_NAME_CHARS)
    yield from cursor.skip_space()
    arguments = json_value((yield from cursor.json()))
    yield from cursor.skip_space()
    if is_fenced:
        yield from cursor.close(_FENCE_END)
        yield from cursor.skip_space()
    yield from cursor.close(_END)
    return [new_call(name.strip(), arguments)]
