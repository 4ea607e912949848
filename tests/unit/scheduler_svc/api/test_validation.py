"""Fields are judged one by one; what is left out gets its default. Refusals are covered by the bad input table, too."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_svc.api import validation
from scheduler_svc.api.draft import StopDraft
from scheduler_svc.api.grpc import requests
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import InvalidRequest
from scheduler_svc.text.tokenizer import Tokenizer
from tests.support.service.fakes import served_model

MODEL = served_model(vocab_size=400, eos_token_ids=(1, 2))
TOKENIZER = Tokenizer(MODEL.tokenizer_json)
CONTEXT = validation.context_tokens(MODEL)


def stop(**fields: object) -> StopDraft:
    return StopDraft(**fields)  # type: ignore[arg-type]


def test_context_is_the_smaller_of_model_length_and_cache() -> None:
    assert CONTEXT == 512
    small = replace(MODEL, core=replace(MODEL.core, num_blocks=4))
    assert validation.context_tokens(small) == 64


def test_each_request_without_id_gets_its_own() -> None:
    first, second = validation.valid_request_id(""), validation.valid_request_id("")
    assert first != second
    validation.require_request_id(first)


@pytest.mark.parametrize("given_id", ["a", "x" * 128, "with space ~!"])
def test_printable_ids_are_kept(given_id: str) -> None:
    assert validation.valid_request_id(given_id) == given_id


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, RequestClass.LATENCY_SENSITIVE), (1, RequestClass.LATENCY_SENSITIVE), (2, RequestClass.BEST_EFFORT)],
)
def test_class_numbers_are_classes(number: int, expected: RequestClass) -> None:
    assert requests.valid_request_class(number) is expected


def test_default_max_tokens_is_256_or_what_the_context_holds() -> None:
    requested = validation.valid_stop(stop(), MODEL)
    assert requested.conditions(10, CONTEXT).max_tokens == 256
    assert requested.conditions(CONTEXT - 3, CONTEXT).max_tokens == 3


@settings(deadline=None)
@given(max_tokens=st.none() | st.integers(-5, 600), min_tokens=st.integers(-5, 600), num_prompt=st.integers(1, 511))
def test_output_fits_the_context_or_is_refused(max_tokens: int | None, min_tokens: int, num_prompt: int) -> None:
    given_stop = (
        stop(min_tokens=min_tokens) if max_tokens is None else stop(max_tokens=max_tokens, min_tokens=min_tokens)
    )
    try:
        conditions = validation.valid_stop(given_stop, MODEL).conditions(num_prompt, CONTEXT)
    except InvalidRequest:
        return
    assert 0 <= conditions.min_tokens <= conditions.max_tokens
    assert 1 <= conditions.max_tokens <= CONTEXT - num_prompt


def test_models_end_tokens_end_the_text_unless_ignored() -> None:
    assert validation.valid_stop(stop(stop_token_ids=[7, 1]), MODEL).stop_token_ids == (1, 2, 7)
    assert validation.valid_stop(stop(stop_token_ids=[7, 1], ignore_eos=True), MODEL).stop_token_ids == (7, 1)


@pytest.mark.parametrize("stop_string", ["a", "é" * 128, "x" * 256, "\x00"])
def test_stop_strings_up_to_256_bytes_are_kept(stop_string: str) -> None:
    assert validation.valid_stop_strings([stop_string], TOKENIZER) == (stop_string,)


def test_refusal_names_field_value_and_limit() -> None:
    with pytest.raises(InvalidRequest, match=r"token_ids.ids\[1\]: got 400, allowed is a token id in \[0, 399\]"):
        validation.valid_token_ids("token_ids.ids", [0, 400], 400)


@pytest.mark.parametrize("num_tokens", [0, 512, 10**9])
def test_prompt_leaves_room_for_a_token(num_tokens: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"text: got {num_tokens} tokens, allowed is 1 to 511 tokens"):
        validation.require_prompt_length("text", num_tokens, 512)


def test_a_stop_string_that_is_a_special_token_is_that_token() -> None:
    strings = validation.valid_stop_strings(["</s>", "x"], TOKENIZER)
    assert strings == ("</s>", "x")
    assert validation.stop_tokens_of(strings, TOKENIZER, MODEL.vocab_size) == {1: "</s>"}
    assert validation.stop_tokens_of(strings, TOKENIZER, vocab_size=1) == {}
    assert validation.valid_stop(stop(ignore_eos=True), MODEL, {1: "</s>"}).stop_token_ids == (1,)


def test_white_space_after_a_special_token_changes_nothing_where_it_is_to_stop() -> None:
    strings = validation.valid_stop_strings(["</s>\n", "</s>"], TOKENIZER)
    assert validation.stop_tokens_of(strings, TOKENIZER, MODEL.vocab_size) == {1: "</s>\n"}


@pytest.mark.parametrize("stop_string", ["\n</s>", "end</s>", "<s></s>", "</s>end"])
def test_a_stop_string_with_a_special_token_inside_is_refused(stop_string: str) -> None:
    with pytest.raises(InvalidRequest, match=r"stop.stop_strings\[1\].*a special token by itself: '</?s>' is one"):
        validation.valid_stop_strings(["x", stop_string], TOKENIZER)
