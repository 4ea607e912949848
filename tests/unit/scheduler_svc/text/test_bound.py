"""A text that certainly has too many tokens is known by its length, and no text that fits is ever taken for one."""

import json
from collections.abc import Callable
from traceback import walk_tb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Encoding, normalizers, pre_tokenizers
from tokenizers import Tokenizer as LibraryTokenizer

from scheduler_svc.text.tokenizer import Tokenizer, TooManyTokens
from tests.support.models.sample_tokenizers import byte_fallback_tokenizer, byte_level_tokenizer


def changed(tokenizer: LibraryTokenizer, change: Callable[[LibraryTokenizer], object]) -> Tokenizer:
    copy = LibraryTokenizer.from_str(tokenizer.to_str())
    change(copy)
    return Tokenizer(copy.to_str().encode())


def set_normalizer(normalizer: object) -> Callable[[LibraryTokenizer], object]:
    return lambda tokenizer: setattr(tokenizer, "normalizer", normalizer)


def set_pre_tokenizer(pre_tokenizer: object) -> Callable[[LibraryTokenizer], object]:
    return lambda tokenizer: setattr(tokenizer, "pre_tokenizer", pre_tokenizer)


BYTE_LEVEL = Tokenizer(byte_level_tokenizer().to_str().encode())
BYTE_FALLBACK = Tokenizer(byte_fallback_tokenizer().to_str().encode())
COMPOSING = changed(byte_level_tokenizer(), set_normalizer(normalizers.Sequence([normalizers.NFKC()])))


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, BYTE_FALLBACK, COMPOSING])
@pytest.mark.parametrize(
    "piece", ["x y ", "\u1f82", "\u03b1\u0313\u0300\u0345", " ", "日本", "<unk>", "</s>", "def hello"]
)
def test_no_text_that_fits_exceeds_the_bound(tokenizer: Tokenizer, piece: str) -> None:
    text = piece * 300
    num_tokens = len(tokenizer.encode(text, add_special_tokens=False))
    assert not tokenizer.bound.exceeds(text, num_tokens)


@settings(max_examples=100)
@given(st.text(max_size=300), st.sampled_from([BYTE_LEVEL, BYTE_FALLBACK, COMPOSING]))
def test_no_text_at_all_that_fits_exceeds_the_bound(text: str, tokenizer: Tokenizer) -> None:
    assert not tokenizer.bound.exceeds(text, len(tokenizer.encode(text, add_special_tokens=False)))


def test_a_text_much_longer_than_the_longest_token_allows_exceeds_the_bound() -> None:
    longest = BYTE_LEVEL.bound.chars_per_token
    assert longest is not None
    assert BYTE_LEVEL.bound.exceeds("x" * (512 * longest + 1), 512)
    assert not BYTE_LEVEL.bound.exceeds("x" * (512 * longest), 512)


@pytest.mark.parametrize(
    "change",
    [
        set_normalizer(normalizers.Strip()),
        set_normalizer(normalizers.Replace("  ", " ")),
        set_normalizer(normalizers.Sequence([normalizers.NFC(), normalizers.BertNormalizer()])),
        set_pre_tokenizer(pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel()])),
        set_pre_tokenizer(pre_tokenizers.Split(" ", "removed")),
        set_pre_tokenizer(None),
    ],
)
def test_a_tokenizer_that_may_drop_text_has_no_bound(change: Callable[[LibraryTokenizer], object]) -> None:
    assert changed(byte_level_tokenizer(), change).bound.chars_per_token is None


def test_a_vocabulary_that_lacks_bytes_has_no_bound() -> None:
    content = json.loads(byte_fallback_tokenizer().to_str())
    content["model"]["vocab"] = {
        piece: index for index, piece in enumerate(one for one in content["model"]["vocab"] if one != "<0x41>")
    }
    assert Tokenizer(json.dumps(content).encode()).bound.chars_per_token is None


def test_spaces_that_a_token_swallows_do_not_count() -> None:
    tokenizer = changed(
        byte_level_tokenizer(), lambda one: one.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    )
    text = " " * 100_000 + "<mask>"
    assert len(tokenizer.encode(text, add_special_tokens=False)) == 1
    assert not tokenizer.bound.exceeds(text, 1)
    assert tokenizer.bound.exceeds(" " * 100_000, 1)


def test_spaces_that_a_token_of_the_normalized_text_swallows_do_not_count() -> None:
    mask = AddedToken("<mask>", lstrip=True, rstrip=True, normalized=True, special=False)

    def change(tokenizer: LibraryTokenizer) -> None:
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.add_tokens([mask])

    tokenizer = changed(byte_level_tokenizer(), change)
    text = "<MASK>" + " " * 100_000
    assert len(tokenizer.encode(text, add_special_tokens=False)) == 1
    assert not tokenizer.bound.exceeds(text, 1)


def test_composing_widens_the_bound_of_no_text_of_ascii() -> None:
    longest = COMPOSING.bound.chars_per_token
    assert longest == BYTE_LEVEL.bound.chars_per_token is not None
    assert COMPOSING.bound.exceeds("x" * (longest + 1), 1)
    assert not COMPOSING.bound.exceeds("é" * (longest + 1), 1)


def test_too_many_tokens_are_counted_and_not_listed() -> None:
    with pytest.raises(TooManyTokens) as caught:
        BYTE_LEVEL.encode("x y " * 100, add_special_tokens=False, max_tokens=10)
    assert caught.value.num_tokens == len(BYTE_LEVEL.encode("x y " * 100, add_special_tokens=False))
    frames = [frame for frame, _ in walk_tb(caught.value.__traceback__)]
    kept = [value for frame in frames for value in frame.f_locals.values() if isinstance(value, Encoding)]
    assert kept == []
