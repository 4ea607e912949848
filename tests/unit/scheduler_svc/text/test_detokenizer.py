"""Text is shown as its tokens come, never half a character and never past a stop string."""

from collections.abc import Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scheduler_svc.text.detokenizer import REPLACEMENT, IncrementalDetokenizer, StopStringFilter, TextAssembler
from scheduler_svc.text.tokenizer import Tokenizer
from tests.support.models.sample_tokenizers import EOS_ID, byte_fallback_tokenizer, byte_level_tokenizer

BYTE_LEVEL = Tokenizer(byte_level_tokenizer().to_str().encode())
BYTE_FALLBACK = Tokenizer(byte_fallback_tokenizer().to_str().encode())
VOCAB_SIZE = byte_level_tokenizer().get_vocab_size()

texts = st.text(max_size=60) | st.text(alphabet="aé€😀👩‍🎉日\u0301\ufffd ", max_size=60)
few_letters = st.text(alphabet="ab", max_size=12)
stops = st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=4)


def pushed(token_ids: Sequence[int], tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer, prompt)
    return [detokenizer.push(token_id) for token_id in token_ids] + [detokenizer.flush()]


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, BYTE_FALLBACK], ids=["byte level", "byte fallback"])
@settings(deadline=None)
@given(text=texts)
def test_deltas_add_up_to_the_text_decoded_at_once(tokenizer: Tokenizer, text: str) -> None:
    # Of a U+FFFD that the model means, byte fallback cannot tell in time that it is no broken character.
    assume(tokenizer is BYTE_LEVEL or REPLACEMENT not in text)
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    assert "".join(pushed(token_ids, tokenizer)) == tokenizer.decode(token_ids)


@settings(deadline=None)
@given(text=texts)
def test_byte_level_text_round_trips(text: str) -> None:
    assert "".join(pushed(BYTE_LEVEL.encode(text, add_special_tokens=False), BYTE_LEVEL)) == text


@settings(deadline=None)
@given(token_ids=st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=80))
def test_deltas_of_arbitrary_tokens_add_up_to_the_text_decoded_at_once(token_ids: list[int]) -> None:
    assert "".join(pushed(token_ids, BYTE_LEVEL)) == BYTE_LEVEL.decode(token_ids)


@settings(deadline=None)
@given(text=st.text(alphabet="aé€😀👩日", min_size=1, max_size=40))
def test_no_delta_holds_part_of_a_character(text: str) -> None:
    deltas = pushed(BYTE_LEVEL.encode(text, add_special_tokens=False), BYTE_LEVEL)
    assert not any(REPLACEMENT in delta for delta in deltas)
    assert deltas[-1] == ""


@settings(deadline=None)
@given(prompt=texts, text=texts)
def test_text_goes_on_from_the_prompt(prompt: str, text: str) -> None:
    prompt_ids = BYTE_LEVEL.encode(prompt, add_special_tokens=False)
    token_ids = BYTE_LEVEL.encode(text, add_special_tokens=False)
    assert "".join(pushed(token_ids, BYTE_LEVEL, prompt_ids)) == text


def test_space_after_the_prompt_is_kept_where_the_decoder_drops_a_leading_one() -> None:
    prompt_ids = BYTE_FALLBACK.encode("cd", add_special_tokens=False)
    token_ids = BYTE_FALLBACK.encode("ab", add_special_tokens=False)  # its first token is "▁ab"
    assert BYTE_FALLBACK.decode(token_ids) == "ab"
    assert "".join(pushed(token_ids, BYTE_FALLBACK, prompt_ids)) == " ab"


def test_prompt_that_ends_inside_a_character_is_no_context() -> None:
    *first, last = BYTE_LEVEL.encode("𝄞", add_special_tokens=False)
    rest = BYTE_LEVEL.encode("ok", add_special_tokens=False)
    assert "".join(pushed((last, *rest), BYTE_LEVEL, first)) == f"{REPLACEMENT}ok"


def test_incomplete_character_at_the_end_is_shown_as_a_replacement() -> None:
    *first, _ = BYTE_LEVEL.encode("𝄞", add_special_tokens=False)
    assert pushed(first, BYTE_LEVEL) == [""] * len(first) + [REPLACEMENT]


def test_special_tokens_are_not_text() -> None:
    token_ids = BYTE_LEVEL.encode("ab", add_special_tokens=False)
    assert "".join(pushed((EOS_ID, token_ids[0], EOS_ID, *token_ids[1:], EOS_ID), BYTE_LEVEL)) == "ab"


@pytest.mark.parametrize("text", ["word " * 2000, "日本😀" * 1000, "\ufffd" * 3000])
def test_a_push_decodes_few_tokens_however_long_the_text(text: str) -> None:
    decoder = CountingDecoder()
    token_ids = BYTE_LEVEL.encode(text, add_special_tokens=False)
    detokenizer = IncrementalDetokenizer(decoder)
    assert "".join([detokenizer.push(token_id) for token_id in token_ids] + [detokenizer.flush()]) == text
    assert decoder.longest <= 40
    assert decoder.num_decoded <= 80 * len(token_ids)


@pytest.mark.parametrize("byte", ["ÿ", "â", "Ģ"])  # byte-level spellings of 0xFF, 0xE2 and 0x80
def test_endless_broken_bytes_cost_no_more_than_text(byte: str) -> None:
    token_id = byte_level_tokenizer().token_to_id(byte)
    decoder = CountingDecoder()
    detokenizer = IncrementalDetokenizer(decoder)
    text = "".join([detokenizer.push(token_id) for _ in range(1000)] + [detokenizer.flush()])
    assert text == REPLACEMENT * 1000
    assert decoder.longest <= 40


class CountingDecoder:
    """Counts the tokens that it decodes."""

    special_token_ids = BYTE_LEVEL.special_token_ids

    def __init__(self) -> None:
        self.longest = 0
        self.num_decoded = 0

    def decode(self, token_ids: Sequence[int]) -> str:
        self.longest = max(self.longest, len(token_ids))
        self.num_decoded += len(token_ids)
        return BYTE_LEVEL.decode(token_ids)


def stopped(text: str, stop_strings: Sequence[str]) -> tuple[str, str | None]:
    """The rule, spelled out: the first end of a stop string counts, and of those that end there the longest."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stop_strings if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


@settings(deadline=None)
@given(pieces=st.lists(few_letters, max_size=8), stop_strings=stops)
def test_text_ends_at_the_first_stop_string_however_it_is_cut(pieces: list[str], stop_strings: list[str]) -> None:
    stop_filter = StopStringFilter(stop_strings)
    shown, met = "", None
    for piece in pieces:
        delta = stop_filter.push(piece)
        shown += delta.text
        if (met := delta.stop_string) is not None:
            break
    else:
        shown += stop_filter.flush()
    assert (shown, met) == stopped("".join(pieces), stop_strings)


@settings(deadline=None)
@given(pieces=st.lists(few_letters, max_size=8), stop_strings=stops)
def test_text_is_held_back_no_longer_than_a_stop_string_needs(pieces: list[str], stop_strings: list[str]) -> None:
    stop_filter = StopStringFilter(stop_strings)
    text, shown = "", ""
    for piece in pieces:
        delta = stop_filter.push(piece)
        if delta.stop_string is not None:
            return
        text += piece
        shown += delta.text
        held = text[len(shown) :]
        assert not held or any(stop.startswith(held) for stop in stop_strings)


@settings(deadline=None)
@given(text=texts, stop_strings=st.lists(st.text(min_size=1, max_size=3), max_size=3))
def test_stop_string_is_found_across_tokens(text: str, stop_strings: list[str]) -> None:
    assembler = TextAssembler(BYTE_LEVEL, (), stop_strings)
    shown, met = "", None
    for token_id in BYTE_LEVEL.encode(text, add_special_tokens=False):
        delta = assembler.push(token_id)
        shown += delta.text
        if (met := delta.stop_string) is not None:
            break
    else:
        delta = assembler.finish()
        shown, met = shown + delta.text, delta.stop_string
    assert (shown, met) == stopped(text, stop_strings)


def test_stop_strings_wait_for_min_tokens() -> None:
    assembler = TextAssembler(BYTE_LEVEL, (), ["a"], min_tokens=3)
    deltas = [assembler.push(BYTE_LEVEL.encode(letter, add_special_tokens=False)[0]) for letter in "aaba"]
    assert [delta.text for delta in deltas] == ["a", "a", "b", ""]
    assert deltas[-1].stop_string == "a"


def test_model_without_tokenizer_has_no_text() -> None:
    assembler = TextAssembler(None, (1, 2), ())
    assert assembler.push(3).text == ""
    assert assembler.finish().text == ""


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, BYTE_FALLBACK], ids=["byte level", "byte fallback"])
@settings(deadline=None)
@given(text=texts, sizes=st.lists(st.integers(0, 30), max_size=8))
def test_tokens_that_come_together_show_what_they_show_one_by_one(
    tokenizer: Tokenizer, text: str, sizes: list[int]
) -> None:
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    together, one_by_one = IncrementalDetokenizer(tokenizer), IncrementalDetokenizer(tokenizer)
    start = 0
    for size in [*sizes, len(token_ids)]:
        some, start = token_ids[start : start + size], start + size
        assert together.extend(some) == "".join(one_by_one.push(token_id) for token_id in some)
    assert together.flush() == one_by_one.flush()


@settings(deadline=None)
@given(token_ids=st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=80), size=st.integers(1, 30))
def test_arbitrary_tokens_that_come_together_add_up_to_the_text_decoded_at_once(
    token_ids: list[int], size: int
) -> None:
    detokenizer = IncrementalDetokenizer(BYTE_LEVEL)
    shown = [detokenizer.extend(token_ids[start : start + size]) for start in range(0, len(token_ids), size)]
    assert "".join([*shown, detokenizer.flush()]) == BYTE_LEVEL.decode(token_ids)


@pytest.mark.parametrize(("stops", "expected"), [([], ("abc", None, 3)), (["b"], ("a", "b", 2))])
def test_tokens_that_come_together_end_at_a_stop_string(
    stops: list[str], expected: tuple[str, str | None, int]
) -> None:
    assembler = TextAssembler(BYTE_LEVEL, (), stops)
    delta, num_used = assembler.extend([BYTE_LEVEL.encode(letter, add_special_tokens=False)[0] for letter in "abc"])
    assert (delta.text, delta.stop_string, num_used) == expected


def test_tokens_that_come_together_take_few_calls_of_the_decoder() -> None:
    decoder = CountingDecoder()
    token_ids = BYTE_LEVEL.encode("word " * 200, add_special_tokens=False)
    IncrementalDetokenizer(decoder).extend(token_ids)
    assert decoder.longest <= 40
    assert decoder.num_decoded <= 4 * len(token_ids)
