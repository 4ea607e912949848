"""Llama 3: `{"name": ..., "parameters": {...}}` and nothing else, or behind `<|python_tag|>`.

Further ones stand behind `;` or white space. A list of such objects is read, too, as other models write it. Since
answers of JSON look alike, only names of functions that may be called make a call.
"""

from collections.abc import Sequence

from scheduler_svc.text.formats.calls import CallIds, Functions, Word, call_of, json_value
from scheduler_svc.text.formats.cursor import Malformed, Reading, TextCursor
from scheduler_svc.text.formats.lark import alternatives, arguments_rules, object_call
from scheduler_svc.text.formats.pieces import Call, Function, Sink

_TAG = "<|python_tag|>"
_KEYS = ("parameters", "arguments")


class BareJson(CallIds):
    """The format; a call is all of the answer, or several are."""

    words = (_TAG,)

    def read(self, cursor: TextCursor, sink: Sink, functions: Functions) -> Reading[None]:
        """Reads an answer."""
        cursor.mark()
        try:
            yield from cursor.skip_space()
            yield from cursor.begins(_TAG)
            while (yield from cursor.peek()):
                for call in _calls((yield from cursor.json()), functions):
                    sink.call(call)
                cursor.mark()
                yield from cursor.skip_space()
                if (yield from cursor.begins(";")):
                    yield from cursor.skip_space()
                yield from cursor.begins(_TAG)
        except Malformed:
            pass
        sink.text(cursor.taken)
        yield from cursor.rest(sink.text)

    def rules(self, functions: Sequence[Function], word: Word, *, is_single: bool) -> str:
        """Returns the rules of calls, each on lines of its own."""
        calls = [object_call(one.name, "parameters", index) for index, one in enumerate(functions)]
        return "\n".join(
            [
                "calls: call" if is_single else 'calls: call ("; " call)*',
                f"call: {alternatives(calls)}",
                *arguments_rules(functions),
            ]
        )


def _calls(text: str, functions: Functions) -> list[Call]:
    value = json_value(text)
    each = value if isinstance(value, list) else [value]
    if not each or not all(_is_call(one, functions) for one in each):
        raise Malformed
    return [call_of(one) for one in each]


def _is_call(value: object, functions: Functions) -> bool:
    """Returns whether a value has a function's name, its arguments, and little else."""
    if not isinstance(value, dict) or not any(key in value for key in _KEYS):
        return False
    name = value.get("name")
    return isinstance(name, str) and name in functions and value.keys() <= {"name", "type", "id", *_KEYS}
