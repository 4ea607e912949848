"""Hermes and Qwen: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`."""

from collections.abc import Sequence

from scheduler_svc.text.formats.calls import CallIds, Functions, Word, call_of, json_value, read_marked
from scheduler_svc.text.formats.cursor import Reading, TextCursor
from scheduler_svc.text.formats.lark import alternatives, arguments_rules, object_call
from scheduler_svc.text.formats.pieces import Call, Function, Sink

_BEGIN, _END = "<tool_call>", "</tool_call>"


class Hermes(CallIds):
    """The format; a call is one object of JSON."""

    words = (_BEGIN, _END)

    def read(self, cursor: TextCursor, sink: Sink, functions: Functions) -> Reading[None]:
        """Reads an answer."""
        yield from read_marked(cursor, sink, (_BEGIN,), _read_call)

    def rules(self, functions: Sequence[Function], word: Word, *, is_single: bool) -> str:
        """Returns the rules of calls, each on lines of its own."""
        begin, end = word(_BEGIN), word(_END)
        calls = [
            f'{begin} "\\n" {object_call(one.name, "arguments", index)} "\\n" {end}'
            for index, one in enumerate(functions)
        ]
        return "\n".join(
            [
                "calls: call" if is_single else 'calls: call ("\\n" call)*',
                f"call: {alternatives(calls)}",
                *arguments_rules(functions),
            ]
        )


def _read_call(cursor: TextCursor, marker: str) -> Reading[Sequence[Call]]:
    yield from cursor.skip_space()
    call = call_of(json_value((yield from cursor.json())))
    yield from cursor.skip_space()
    yield from cursor.close(_END)
    return [call]
