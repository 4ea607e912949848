"""Marks that are special tokens are text to those who read answers."""

from collections.abc import Callable

import pytest
from tokenizers import Tokenizer as Library

from scheduler_svc.text.detokenizer import IncrementalDetokenizer
from scheduler_svc.text.kept_tokens import KeepingDecoder
from scheduler_svc.text.tokenizer import Tokenizer
from tests.support.models.sample_tokenizers import byte_fallback_tokenizer, byte_level_tokenizer

OTHER = "<other>"


@pytest.mark.parametrize(
    ("make", "mark_text"),
    [
        (byte_level_tokenizer, "<｜tool▁sep｜>"),
        (byte_level_tokenizer, "<tool_call>"),
        (byte_fallback_tokenizer, "[TOOL_CALLS]"),
    ],
)
def test_kept_tokens_are_written_out_between_others_as_they_come(make: Callable[[], Library], mark_text: str) -> None:
    library = Library.from_str(make().to_str())
    library.add_special_tokens([mark_text, OTHER])
    tokenizer = Tokenizer(library.to_str().encode())
    mark, other = tokenizer.special_tokens[mark_text], tokenizer.special_tokens[OTHER]
    text = tokenizer.encode("a b \u00e9", add_special_tokens=False)
    token_ids = [*text, mark, *text, other, mark, mark]
    detokenizer = IncrementalDetokenizer(KeepingDecoder(tokenizer, [mark_text, "<not there>"]))
    shown = [detokenizer.push(token_id) for token_id in token_ids] + [detokenizer.flush()]
    assert "".join(shown).replace(" ", "") == f"ab\u00e9{mark_text}ab\u00e9{mark_text}{mark_text}"
    assert shown[len(text)] == mark_text
    plain = IncrementalDetokenizer(tokenizer)
    assert mark_text not in plain.extend(token_ids) + plain.flush()
