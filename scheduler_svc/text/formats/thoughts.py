"""Thoughts between tags, as DeepSeek R1, Qwen3 and others write them before an answer: `<think>...</think>`.

Some templates write the opening tag themselves, at the end of the prompt.
"""

from scheduler_svc.text.formats.calls import Word
from scheduler_svc.text.formats.cursor import Reading, TextCursor
from scheduler_svc.text.formats.lark import text_before
from scheduler_svc.text.formats.pieces import Sink

BEGIN, END = "<think>", "</think>"
WORDS = (BEGIN, END)


def is_open_at(prompt_end: str) -> bool:
    """Returns whether a thought is open at the end of a prompt."""
    return prompt_end.rstrip().endswith(BEGIN)


def is_over_at(prompt_end: str) -> bool:
    """Returns whether a prompt ends behind a thought, so that none is to follow."""
    return prompt_end.rstrip().endswith(END)


def read_thought(cursor: TextCursor, sink: Sink, *, is_open: bool) -> Reading[None]:
    """Reads the thought that an answer begins with, if there is one.

    Args:
        cursor: Stands at the answer's start.
        sink: Takes the thought, and white space where there is none.
        is_open: Whether the prompt opened it.
    """
    space = yield from cursor.skip_space()
    if not (yield from cursor.begins(BEGIN)) and not is_open:
        sink.text(space)
        return
    sink.begin_thought()
    if (yield from cursor.until((END,), sink.think)) is not None:
        sink.end_thought()


def thought_rules(word: Word, *, is_open: bool) -> list[str]:
    """Returns rules of a Lark grammar in which `thought` is a thought, or nothing where the prompt opens none."""
    rules = text_before("thinking", word(END), END)
    thought = "thought: thinking SPACE?" if is_open else f"thought: ({word(BEGIN)} thinking SPACE?)?"
    return [thought, *rules, r"SPACE: /\s{1,4}/"]
