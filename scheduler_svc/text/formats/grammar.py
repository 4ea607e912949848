"""Writes the grammar that a whole answer is kept to: thoughts first, then calls, or a text with its own structure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from scheduler_svc.text.formats import thoughts
from scheduler_svc.text.formats.calls import Word
from scheduler_svc.text.formats.grammar_parts import Grammar, LarkText, Part
from scheduler_svc.text.formats.harmony import Harmony
from scheduler_svc.text.formats.lark import marker_word
from scheduler_svc.text.formats.pieces import Function
from scheduler_svc.text.formats.table import UNKNOWN, Formats, ReasoningFormat


@dataclass(frozen=True, slots=True)
class AnswerGrammar:
    """What an answer may be besides a text.

    Attributes:
        formats: How the model writes.
        functions: What may be called; none: nothing may.
        must_call: Whether the answer has to be calls.
        is_single: Whether there may be one call at most.
        is_thinking: Whether the prompt opened a thought.
        special_tokens: Ids by text of tokens that are no text.
    """

    formats: Formats = UNKNOWN
    functions: Sequence[Function] = ()
    must_call: bool = False
    is_single: bool = False
    is_thinking: bool = False
    special_tokens: Mapping[str, int] = field(default_factory=dict)

    def around(self, body: Part | None = None) -> Grammar | None:
        """Returns the grammar of the answer; None where it is kept to nothing.

        Args:
            body: What a text is kept to; None: nothing. Where the answer has to be calls there is no text.

        Raises:
            NotFollowed: Calls of one of the functions can't be kept to its schema.
        """
        if body is None and not self.must_call:
            return None
        word = partial(marker_word, special_tokens=self.special_tokens)
        before, calls = self._thought_rules(word), self._call_rules(word)
        if body is not None and not (before or calls):
            return Grammar(body)
        rules = ["start: thought answer" if before else "start: answer", *before, *calls]
        if self.must_call:
            return Grammar(LarkText("\n".join([*rules, "answer: calls"])))
        text = Harmony.text_rule(word, "@body") if self._is_harmony else "@body"
        rules.append(f"answer: {text} | calls" if calls else f"answer: {text}")
        return Grammar(LarkText("\n".join(rules)), body)

    def of_text(self) -> "AnswerGrammar":
        """Returns that of an answer without calls."""
        return replace(self, functions=(), must_call=False)

    @property
    def _is_harmony(self) -> bool:
        return self.formats.reasoning is ReasoningFormat.HARMONY

    def _thought_rules(self, word: Word) -> list[str]:
        if self._is_harmony:
            return Harmony.thought_rules(word)
        if self.formats.reasoning is ReasoningFormat.THINK:
            return thoughts.thought_rules(word, is_open=self.is_thinking)
        return []

    def _call_rules(self, word: Word) -> list[str]:
        if not self.functions:
            return []
        assert self.formats.calls is not None
        return self.formats.calls.rules(self.functions, word, is_single=self.is_single).split("\n")


PLAIN = AnswerGrammar()
