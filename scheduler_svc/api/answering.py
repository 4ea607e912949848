"""Decides how one answer is read and what it is kept to, from its model's formats and from what its prompt ended with.

draft ──▶ tools that may be called ──▶ prompt ──▶ grammar of the answer
                                             └──▶ reader of its text
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scheduler_svc.api.parts import PartReader
from scheduler_svc.api.tools import ToolUse
from scheduler_svc.text.detokenizer import Decoder
from scheduler_svc.text.formats.bare_json import BareJson
from scheduler_svc.text.formats.calls import CallIds
from scheduler_svc.text.formats.grammar import PLAIN as ANY_TEXT
from scheduler_svc.text.formats.grammar import AnswerGrammar
from scheduler_svc.text.formats.reader import AnswerReader, words_of
from scheduler_svc.text.formats.table import Formats, ReasoningFormat
from scheduler_svc.text.formats.thoughts import is_open_at, is_over_at
from scheduler_svc.text.kept_tokens import KeepingDecoder
from scheduler_svc.text.tokenizer import Tokenizer

# Tokens at the end of a prompt that show whether it opens a thought.
_NUM_LOOKED_AT = 16


@dataclass(frozen=True, slots=True)
class Answering:
    """How an answer is read.

    Attributes:
        grammar: What it may be besides a text.
        most_calls: It ends with so many calls; None: it goes on.
    """

    grammar: AnswerGrammar = ANY_TEXT
    most_calls: int | None = None

    @classmethod
    def of(cls, formats: Formats, use: ToolUse, tokenizer: Tokenizer, prompt: Sequence[int]) -> "Answering":
        """Returns how the answer to a prompt is read."""
        end = tokenizer.decode(prompt[-_NUM_LOOKED_AT:], with_special_tokens=True)
        if formats.reasoning is ReasoningFormat.THINK and is_over_at(end):
            formats = replace(formats, reasoning=ReasoningFormat.NONE)
        if use.must_call and formats.calls is None:  # whatever the model would write, it is kept to this
            formats = replace(formats, calls=BareJson())
        is_thinking = formats.reasoning is ReasoningFormat.THINK and is_open_at(end)
        special = tokenizer.special_tokens
        grammar = AnswerGrammar(formats, use.functions, use.must_call, use.most_calls == 1, is_thinking, special)
        return cls(grammar, use.most_calls)

    def decoder(self, tokenizer: Tokenizer | None, *, shows_special: bool = False) -> Decoder | None:
        """Returns what decodes the answer for its reader; with all special tokens, or with those it looks for."""
        if tokenizer is not None and shows_special:
            return KeepingDecoder(tokenizer, None)
        words = words_of(self.grammar.formats, with_calls=bool(self.grammar.functions))
        return KeepingDecoder(tokenizer, words) if tokenizer is not None and words else tokenizer

    def reader(self) -> PartReader | None:
        """Returns what reads the answer; None where all of it is text."""
        formats, functions = self.grammar.formats, self.grammar.functions
        if formats.reasoning is ReasoningFormat.NONE and not functions:
            return None
        reader = AnswerReader(formats, functions, is_thinking=self.grammar.is_thinking, most_calls=self.most_calls)
        return PartReader(reader, (formats.calls or CallIds()).new_id)


PLAIN = Answering()
