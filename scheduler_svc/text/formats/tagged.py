"""GLM 4.5 and Qwen3-Coder: a call's arguments one by one, each between tags; texts stand there without quotes.

GLM:         <tool_call>NAME, then for each: <arg_key>KEY</arg_key>, <arg_value>VALUE</arg_value>; </tool_call>
Qwen3-Coder: <tool_call><function=NAME>, then for each: <parameter=KEY> VALUE </parameter>; </function></tool_call>
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from scheduler_svc.text.formats.calls import CallIds, Functions, Word, json_value, new_call, read_marked
from scheduler_svc.text.formats.cursor import Malformed, Reading, TextCursor
from scheduler_svc.text.formats.lark import alternatives, json_rule, quoted, text_before
from scheduler_svc.text.formats.pieces import Call, Function, Sink

_BEGIN, _END = "<tool_call>", "</tool_call>"
_NEW_LINE = quoted("\n")


@dataclass(frozen=True, slots=True)
class Tags:
    """What stands around the parts of a call.

    Attributes:
        before_name, after_name: Around the function's name.
        before_key, after_key: Around the name of an argument.
        before_value, after_value: Around its value; `before_value` comes right behind `after_key`.
        end: What ends a call.
    """

    before_name: str
    after_name: str
    before_key: str
    after_key: str
    before_value: str
    after_value: str
    end: str


GLM = Tags("", "\n", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", _END)
QWEN_CODER = Tags("<function=", ">", "<parameter=", ">", "", "</parameter>", "</function>")


class Tagged(CallIds):
    """The format.

    Args:
        tags: The model's.
    """

    def __init__(self, tags: Tags) -> None:
        self._tags = tags

    @property
    def words(self) -> tuple[str, ...]:
        """The tags, where they are whole."""
        tags = self._tags
        parts = (tags.before_key, tags.after_key, tags.before_value, tags.after_value, tags.end)
        return (_BEGIN, _END, *(part for part in parts if part.startswith("<") and part.endswith(">")))

    def read(self, cursor: TextCursor, sink: Sink, functions: Functions) -> Reading[None]:
        """Reads an answer."""
        yield from read_marked(cursor, sink, (_BEGIN,), partial(self._read_call, functions))

    def _read_call(self, functions: Functions, cursor: TextCursor, marker: str) -> Reading[Sequence[Call]]:
        tags = self._tags
        yield from cursor.skip_space()
        yield from cursor.expect(tags.before_name)
        name = yield from self._read_name(cursor)
        function = functions.get(name, Function(name))
        arguments: dict[str, Any] = {}
        while True:
            yield from cursor.skip_space()
            if not (yield from cursor.begins(tags.before_key)):
                break
            key, _ = yield from cursor.text_until(tags.after_key)
            if tags.before_value:
                yield from cursor.skip_space()
                yield from cursor.expect(tags.before_value)
            value, _ = yield from cursor.text_until(tags.after_value)
            arguments[key.strip()] = _value(value, is_text=function.is_text(key.strip()))
        yield from cursor.expect(tags.end)
        if tags.end != _END:
            yield from cursor.skip_space()
            yield from cursor.close(_END)
        return [new_call(name, arguments)]

    def _read_name(self, cursor: TextCursor) -> Reading[str]:
        """Returns the function's name, up to what ends it, or to a tag."""
        name: list[str] = []
        while (char := (yield from cursor.peek())) not in ("", self._tags.after_name, "<"):
            name.append(cursor.next())
        if char == self._tags.after_name:
            cursor.next()
        return "".join(name).strip()

    def rules(self, functions: Sequence[Function], word: Word, *, is_single: bool) -> str:
        """Returns the rules of calls, each on lines of its own; arguments come in the order of the schema."""
        lines = ["calls: call" if is_single else 'calls: call ("\\n" call)*']
        calls: list[str] = []
        for index, one in enumerate(functions):
            arguments = self._arguments(index, one, word)
            lines += [line for _, rules in arguments for line in rules]
            calls.append(" ".join([*self._head(one.name, word), *(use for use, _ in arguments), *self._tail(word)]))
        return "\n".join([*lines, f"call: {alternatives(calls)}"])

    def _head(self, name: str, word: Word) -> list[str]:
        tags = self._tags
        is_inside = bool(tags.before_name)
        after = f"{tags.after_name}\n" if is_inside else "\n"
        return [word(_BEGIN), quoted(("\n" if is_inside else "") + tags.before_name + name + after)]

    def _tail(self, word: Word) -> list[str]:
        return [word(_END)] if self._tags.end == _END else [word(self._tags.end), _NEW_LINE, word(_END)]

    def _arguments(self, index: int, function: Function, word: Word) -> list[tuple[str, list[str]]]:
        """Returns for each parameter how a call has it, and the rules that this needs."""
        properties = function.parameters.get("properties")
        needed = function.parameters.get("required", ())
        shared = {key: function.parameters[key] for key in ("$defs", "definitions") if key in function.parameters}
        return [
            self._argument(f"{index}_{number}", key, schema, shared, word, is_needed=key in needed)
            for number, (key, schema) in enumerate(properties.items() if isinstance(properties, dict) else ())
        ]

    def _argument(
        self, suffix: str, key: str, schema: Any, shared: dict[str, Any], word: Word, *, is_needed: bool
    ) -> tuple[str, list[str]]:
        tags, name = self._tags, f"value_{suffix}"
        after = word(tags.after_value)
        end = [after, _NEW_LINE] if tags.before_value else [_NEW_LINE, after, _NEW_LINE]
        if tags.before_value:
            begin = [word(tags.before_key), quoted(key), word(tags.after_key), _NEW_LINE, word(tags.before_value)]
        else:
            begin = [quoted(tags.before_key + key + tags.after_key + "\n")]
        is_text = isinstance(schema, dict) and schema.get("type") == "string"
        if is_text and isinstance(schema.get("enum"), list) and all(isinstance(one, str) for one in schema["enum"]):
            rules = [f"{name}: {alternatives(quoted(one) for one in schema['enum'])}"]
        elif is_text:
            rules, end = text_before(name, after, tags.after_value), [_NEW_LINE]
        else:
            rules = [json_rule(name, {**schema, **shared} if isinstance(schema, dict) else {})]
        rules.append(f"argument_{suffix}: {' '.join([*begin, name, *end])}")
        return f"argument_{suffix}{'' if is_needed else '?'}", rules


def _value(text: str, *, is_text: bool) -> Any:
    """Returns an argument's value: a text as it stands, others as JSON where they are."""
    text = text.removeprefix("\n").removesuffix("\n")
    if is_text:
        return text
    try:
        return json_value(text)
    except Malformed:
        return text
