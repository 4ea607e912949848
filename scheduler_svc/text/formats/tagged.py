"""GLM 4.5 and Qwen3-Coder: a call's arguments one by one, each between tags; texts stand there without quotes.

GLM:         <tool_call>NAME, then for each: <arg_key>KEY</arg_key>, <arg_value>VALUE</arg_value>; </tool_call>
Qwen3-Coder: <tool_call><function=NAME>, then for each: <parameter=KEY> VALUE </parameter>; </function></tool_call>
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from scheduler_svc.text.formats.calls import (
    MAX_KEY_CHARS,
    MAX_NAME_CHARS,
    CallIds,
    Functions,
    Word,
    json_value,
    new_call,
    read_marked,
)
from scheduler_svc.text.formats.cursor import Malformed, Reading, TextCursor
from scheduler_svc.text.formats.lark import NotFollowed, alternatives, json_rule, quoted, text_before
from scheduler_svc.text.formats.pieces import Call, Function, Sink
from scheduler_svc.text.formats.tagged_schema import Argument, arguments_of, text_of

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
        name = (yield from cursor.brief_before(tags.after_name + "<", MAX_NAME_CHARS)).strip()
        yield from cursor.begins(tags.after_name)
        function = functions.get(name, Function(name))
        arguments: dict[str, Any] = {}
        while True:
            yield from cursor.skip_space()
            if not (yield from cursor.begins(tags.before_key)):
                break
            key = (yield from cursor.brief_until(tags.after_key, MAX_KEY_CHARS)).strip()
            if tags.before_value:
                yield from cursor.skip_space()
                yield from cursor.expect(tags.before_value)
            value = yield from cursor.text_until(tags.after_value)
            if not tags.before_value:  # the value stands on lines of its own
                value = value.removeprefix("\n").removesuffix("\n")
            arguments[key] = _value(value, is_text=function.is_text(key))
        yield from cursor.expect(tags.end)
        if tags.end != _END:
            yield from cursor.skip_space()
            yield from cursor.close(_END)
        return [new_call(name, arguments)]

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
        """Returns for each argument how a call has it, and the rules that this needs."""
        found: list[tuple[str, list[str]]] = []
        for number, argument in enumerate(arguments_of(function)):
            suffix, key = f"{index}_{number}", argument.key
            if len(key) > MAX_KEY_CHARS or key != key.strip() or "\n" in key or self._tags.after_key in key:
                raise NotFollowed(function.name, f"{key!r} can't stand between tags")
            rules, value = self._value_rules(f"value_{suffix}", function.name, argument, word)
            rules.append(f"argument_{suffix}: {' '.join([*self._before_value(key, word), *value])}")
            found.append((f"argument_{suffix}{'' if argument.is_needed else '?'}", rules))
        return found

    def _before_value(self, key: str, word: Word) -> list[str]:
        tags = self._tags
        if tags.before_value:
            return [word(tags.before_key), quoted(key), word(tags.after_key), _NEW_LINE, word(tags.before_value)]
        return [quoted(tags.before_key + key + tags.after_key + "\n")]

    def _value_rules(self, name: str, function: str, argument: Argument, word: Word) -> tuple[list[str], list[str]]:
        """Returns the rules of a value, and how it stands there, with its end."""
        end, after = word(self._tags.after_value), self._tags.after_value
        before_end = "" if self._tags.before_value else "\n"
        if not argument.is_text:
            value = [name, _NEW_LINE] if before_end else [name]
            return [json_rule(name, dict(argument.schema))], [*value, end, _NEW_LINE]
        is_token = not end.startswith('"')
        bounds = text_of(function, argument, after, is_token=is_token)
        if not bounds:
            return text_before(name, end, after), [name, _NEW_LINE]
        # All of one terminal: a text that ends where it may end is told from one that goes on by what ends it.
        text = name.upper()
        if not is_token:
            return [f"{text}: ({bounds}) {quoted(before_end + after)}"], [text, _NEW_LINE]
        if before_end:
            return [f"{text}: ({bounds}) {quoted(before_end)}"], [text, end, _NEW_LINE]
        return [f"{text}: {bounds}"], [text, end, _NEW_LINE]


def _value(text: str, *, is_text: bool) -> Any:
    """Returns an argument's value: a text as it stands, others as JSON where they are."""
    if is_text:
        return text
    try:
        return json_value(text)
    except Malformed:
        return text
