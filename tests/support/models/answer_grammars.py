"""Follows grammars of answers as the worker does, and lets chance write by them."""

import random
from collections.abc import Sequence
from functools import cache

from llguidance import LLMatcher, LLTokenizer
from qllm.grammar import LIMITS, tokenizer_of
from tokenizers import Tokenizer as Library

from scheduler_svc.text.formats.grammar import AnswerGrammar
from scheduler_svc.text.formats.grammar_parts import LarkText
from scheduler_svc.text.formats.reader import words_of
from scheduler_svc.text.formats.table import CALL_FORMATS, Formats
from scheduler_svc.text.kept_tokens import KeepingDecoder
from scheduler_svc.text.tokenizer import Tokenizer
from tests.support.models.sample_tokenizers import EOS_ID, byte_level_tokenizer

TEMPLATES = [
    *(text for entry in CALL_FORMATS.values() for text in entry.shown_by),
    "[TOOL_CALLS] [ARGS]",
    "<｜tool▁call▁begin｜> ```json",
]
WORDS = sorted({word for template in TEMPLATES for word in words_of(Formats.of(template), with_calls=True)})


@cache
def tokenizers(*, is_special: bool) -> tuple[Tokenizer, LLTokenizer]:
    """Marks are special tokens, or plain text."""
    library = Library.from_str(byte_level_tokenizer().to_str())
    if is_special:
        library.add_special_tokens([*WORDS, "<think>", "</think>"])
    content = library.to_str().encode()
    return Tokenizer(content), tokenizer_of(content, library.get_vocab_size(), [EOS_ID])


def text_by(grammar: AnswerGrammar, body: str = "") -> str:
    """Returns the grammar around rules of a text; empty: there are none."""
    whole = grammar.around(LarkText(body) if body else None)
    return "" if whole is None else whole.text()


def matcher_of(grammar: AnswerGrammar, *, is_special: bool, body: str = "") -> LLMatcher:
    matcher = LLMatcher(tokenizers(is_special=is_special)[1], text_by(grammar, body), log_level=0, limits=LIMITS)
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def by_chance(matcher: LLMatcher, seed: int, num_tokens: int = 2000) -> list[int]:
    """Returns tokens that chance chose among those that may come; the end as soon as it may."""
    chance, token_ids = random.Random(seed), list[int]()
    while len(token_ids) < num_tokens:
        mask = matcher.compute_logit_bias()
        if mask[EOS_ID]:
            return token_ids
        token_ids.append(chance.choice([token_id for token_id, bias in enumerate(mask) if bias]))
        assert matcher.consume_token(token_ids[-1])
    raise AssertionError("it never ends")


def text_of(grammar: AnswerGrammar, token_ids: Sequence[int], *, is_special: bool) -> str:
    tokenizer = tokenizers(is_special=is_special)[0]
    decoder = KeepingDecoder(tokenizer, words_of(grammar.formats, with_calls=True))
    return decoder.decode([token_id for token_id in token_ids if token_id not in decoder.special_token_ids])
