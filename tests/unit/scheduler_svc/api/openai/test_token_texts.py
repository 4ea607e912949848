"""The tokens of an answer are its text, cut into pieces: nothing is lost at their seams."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_svc.api.openai.token_texts import TokenTexts
from scheduler_svc.text.detokenizer import IncrementalDetokenizer
from scheduler_svc.text.tokenizer import Tokenizer
from tests.support.models.sample_tokenizers import byte_fallback_tokenizer, byte_level_tokenizer

TOKENIZERS = {
    "byte level": Tokenizer(byte_level_tokenizer().to_str().encode()),
    "byte fallback": Tokenizer(byte_fallback_tokenizer().to_str().encode()),
}


def ids_of(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tokenizer.encode(text, add_special_tokens=False)


def shown_text(tokenizer: Tokenizer, prompt: tuple[int, ...], output: tuple[int, ...]) -> str:
    detokenizer = IncrementalDetokenizer(tokenizer, prompt)
    return "".join(detokenizer.push(token_id) for token_id in output) + detokenizer.flush()


def test_leading_spaces_are_kept() -> None:
    tokenizer = TOKENIZERS["byte fallback"]
    texts = TokenTexts(tokenizer, ())
    tokens = [texts.next(token_id) for token_id in ids_of(tokenizer, "a ab é")]
    assert [token.text for token in tokens] == ["a", " ab", " ", "é"]
    assert [token.offset for token in tokens] == [0, 1, 4, 5]


def test_parts_of_a_character_are_written_as_bytes() -> None:
    tokenizer = TOKENIZERS["byte fallback"]
    prompt = ids_of(tokenizer, "ab")
    texts = TokenTexts(tokenizer, prompt)
    tokens = [texts.next(token_id) for token_id in ids_of(tokenizer, "ab日ab")[len(prompt) :]]
    assert [token.text for token in tokens[:3]] == ["bytes:\\xe6", "bytes:\\x97", "bytes:\\xa5"]
    assert [token.offset for token in tokens[:4]] == [0, 0, 0, 1]


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@settings(max_examples=100)
@given(prompt=st.text("ab é日", max_size=6), output=st.text("abcdé 日😀", max_size=12))
def test_the_bytes_of_all_tokens_are_the_texts(tokenizer: Tokenizer, prompt: str, output: str) -> None:
    num_prompt = len(ids_of(tokenizer, prompt))
    all_ids = ids_of(tokenizer, prompt + output)
    before, after = all_ids[:num_prompt], all_ids[num_prompt:]
    texts = TokenTexts(tokenizer, before)
    tokens = [texts.next(token_id) for token_id in after]
    assert b"".join(token.data for token in tokens).decode(errors="replace") == shown_text(tokenizer, before, after)


def test_special_tokens_are_written_out_and_change_nothing_for_the_others() -> None:
    tokenizer = TOKENIZERS["byte fallback"]
    end = tokenizer.special_tokens["</s>"]
    ids = ids_of(tokenizer, "a ab é")
    texts = TokenTexts(tokenizer, (end,))
    tokens = [texts.next(token_id) for token_id in (ids[0], end, *ids[1:])]
    assert [token.text for token in tokens] == ["a", "</s>", " ab", " ", "é"]
    assert [token.offset for token in tokens] == [0, 1, 1, 4, 5]


def test_a_model_without_tokenizer_has_tokens_without_text() -> None:
    assert TokenTexts(None, (1, 2)).next(3).text == ""
