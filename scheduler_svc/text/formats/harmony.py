"""gpt-oss: channels. Thoughts are on `analysis`, the answer on `final`, calls on `commentary` and to a function.

    <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>
    <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>

Source: github.com/openai/harmony, docs/format.md.
"""

import re
from collections.abc import Sequence

from scheduler_svc.text.formats.calls import CallIds, Functions, Word, json_value, new_call
from scheduler_svc.text.formats.cursor import Malformed, Reading, TextCursor
from scheduler_svc.text.formats.lark import alternatives, arguments_rules, quoted, text_before
from scheduler_svc.text.formats.pieces import Function, Sink

_START, _CHANNEL, _MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_CONSTRAIN, _END, _CALL, _RETURN = "<|constrain|>", "<|end|>", "<|call|>", "<|return|>"
_ENDS = (_END, _CALL, _RETURN, _START)
_CHANNEL_NAME = re.compile(r"<\|channel\|>\s*([a-z]+)")
_TO = "commentary to=functions."
_RECIPIENT = re.compile(r"to=functions\.([^\s<]+)")


class Harmony(CallIds):
    """The format, of which thoughts are a part."""

    words = (_START, _CHANNEL, _MESSAGE, _CONSTRAIN, _END, _CALL, _RETURN)

    def read(self, cursor: TextCursor, sink: Sink, functions: Functions) -> Reading[None]:
        """Reads an answer, message by message; where no functions may be called, calls are text."""
        header = yield from _first_header(cursor, sink)
        while (yield from cursor.until((_MESSAGE,), header.append)) is not None:  # a header that is cut off is no text
            yield from _read_message(cursor, sink, "".join(header), functions)
            header = []

    def rules(self, functions: Sequence[Function], word: Word, *, is_single: bool) -> str:
        """Returns the rules of calls, each on lines of its own; a call ends the answer, so there is one."""
        calls = [
            f'{quoted(_TO + one.name + " ")} {word(_CONSTRAIN)} "json" {word(_MESSAGE)} args_{index}'
            for index, one in enumerate(functions)
        ]
        return "\n".join([f"calls: {word(_CHANNEL)} call", f"call: {alternatives(calls)}", *arguments_rules(functions)])

    @staticmethod
    def thought_rules(word: Word) -> list[str]:
        """Returns rules of a Lark grammar in which `thought` is a message of analysis, or nothing."""
        head = f'{word(_CHANNEL)} "analysis" {word(_MESSAGE)}'
        return [
            f'thought: ({head} thinking {word(_START)} "assistant")?',
            *text_before("thinking", word(_END), _END),
        ]

    @staticmethod
    def text_rule(word: Word, body: str) -> str:
        """Returns the text of a rule for an answer that is `body`."""
        return f'{word(_CHANNEL)} "final" {word(_MESSAGE)} {body}'


def _first_header(cursor: TextCursor, sink: Sink) -> Reading[list[str]]:
    """Returns how the first header begins; what stands before it is text, as an answer without channels is."""
    space = yield from cursor.skip_space()
    if (yield from cursor.begins("to=")):
        return ["to="]
    sink.text(space)
    return [(yield from cursor.until((_START, _CHANNEL), sink.text)) or ""]


def _read_message(cursor: TextCursor, sink: Sink, header: str, functions: Functions) -> Reading[None]:
    channel, recipient = _CHANNEL_NAME.search(header), _RECIPIENT.search(header)
    if recipient is not None and functions:
        cursor.mark()
        parts: list[str] = []
        yield from cursor.until(_ENDS, parts.append)
        body = "".join(parts)
        try:
            sink.call(new_call(recipient[1], json_value(body)))
        except Malformed:
            sink.begin_text()
            sink.text(body)
        return
    if channel is None or channel[1] != "analysis":
        sink.begin_text()
        yield from cursor.until(_ENDS, sink.text)
        return
    sink.begin_thought()
    if (yield from cursor.until(_ENDS, sink.think)) is not None:
        sink.end_thought()
