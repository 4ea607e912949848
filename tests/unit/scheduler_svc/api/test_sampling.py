"""How tokens are chosen is judged field by field; what is left out is as the model's makers say, else no rule."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_svc.api.draft import SamplingDraft
from scheduler_svc.api.sampling import bad_word_ids, valid_sampling
from scheduler_svc.core.state.sequence import SamplingParams
from scheduler_svc.errors import InvalidRequest
from scheduler_svc.generation import SamplingDefaults
from scheduler_svc.text.tokenizer import Tokenizer
from tests.support.models.sample_tokenizers import byte_fallback_tokenizer, byte_level_tokenizer
from tests.support.service.fakes import served_model

VOCAB_SIZE = 400
TOKENIZER = Tokenizer(served_model(vocab_size=VOCAB_SIZE).tokenizer_json)


def test_sampling_defaults_filter_nothing() -> None:
    sampling = valid_sampling(SamplingDraft(), 400)
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (1.0, 0, 1.0, 0.0)


def test_the_models_own_defaults_stand_for_what_is_left_out() -> None:
    defaults = SamplingDefaults(temperature=0.6, top_k=20, top_p=0.95, min_p=0.1)
    sampling = valid_sampling(SamplingDraft(), 400, defaults)
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.6, 20, 0.95, 0.1)
    given = SamplingDraft(temperature=0.0, top_k=0, top_p=1.0, min_p=0.0)
    sampling = valid_sampling(given, 400, defaults)
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.0, 0, 1.0, 0.0)


def test_seed_is_random_unless_given() -> None:
    seeds = {valid_sampling(SamplingDraft(), 400).seed for _ in range(10)}
    assert len(seeds) == 10
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert valid_sampling(SamplingDraft(seed=0), 400).seed == 0


@pytest.mark.parametrize("temperature", [0.0, -0.0, 5e-324, 9e-6])
def test_vanishing_temperature_is_greedy(temperature: float) -> None:
    sampling = valid_sampling(SamplingDraft(temperature=temperature), 400)
    assert str(sampling.temperature) == "0.0" or temperature == 0


@settings(deadline=None)
@given(
    temperature=st.floats(width=64), top_p=st.floats(width=64), min_p=st.floats(width=64), top_k=st.integers(-9, 500)
)
def test_sampling_is_within_its_limits_or_refused(temperature: float, top_p: float, min_p: float, top_k: int) -> None:
    message = SamplingDraft(temperature=temperature, top_p=top_p, min_p=min_p, top_k=top_k)
    try:
        sampling = valid_sampling(message, 400)
    except InvalidRequest:
        return
    assert 0 <= sampling.temperature <= 100
    assert 0 < sampling.top_p <= 1
    assert 0 <= sampling.min_p <= 1
    assert 0 <= sampling.top_k <= 400


def test_rules_are_kept_as_given_in_one_order() -> None:
    given = SamplingDraft(
        repetition_penalty=1.2,
        presence_penalty=-2,
        frequency_penalty=0.5,
        logit_bias=((7, -100), (3, 1.5)),
        allowed_token_ids=(9, 7, 9),
        num_top_logprobs=20,
    )
    expected = SamplingParams(
        seed=5,
        repetition_penalty=1.2,
        presence_penalty=-2,
        frequency_penalty=0.5,
        logit_bias=((3, 1.5), (7, -100)),
        allowed_token_ids=(7, 9),
        num_top_logprobs=20,
    )
    assert replace(valid_sampling(given, VOCAB_SIZE), seed=5) == expected


def test_the_models_own_repetition_penalty_stands_where_none_is_given() -> None:
    defaults = SamplingDefaults(repetition_penalty=1.1)
    assert valid_sampling(SamplingDraft(), VOCAB_SIZE, defaults).repetition_penalty == 1.1
    assert valid_sampling(SamplingDraft(repetition_penalty=1), VOCAB_SIZE, defaults).repetition_penalty == 1


@pytest.mark.parametrize(
    ("fields", "field", "allowed"),
    [
        ({"repetition_penalty": 0}, "sampling.repetition_penalty", "[0.01, 100]"),
        ({"repetition_penalty": math.nan}, "sampling.repetition_penalty", "[0.01, 100]"),
        ({"presence_penalty": 2.1}, "sampling.presence_penalty", "[-2, 2]"),
        ({"frequency_penalty": -math.inf}, "sampling.frequency_penalty", "[-2, 2]"),
        ({"logit_bias": [(400, 1)]}, "sampling.logit_bias", "[0, 399]"),
        ({"logit_bias": [(4, 101)]}, "sampling.logit_bias[4]", "[-100, 100]"),
        ({"logit_bias": [(4, math.nan)]}, "sampling.logit_bias[4]", "[-100, 100]"),
        ({"logit_bias": [(i, 1) for i in range(1025)]}, "sampling.logit_bias", "1024"),
        ({"allowed_token_ids": [-1]}, "sampling.allowed_token_ids[0]", "[0, 399]"),
        ({"allowed_token_ids": [1] * 4097}, "sampling.allowed_token_ids", "4096"),
        ({"num_top_logprobs": 21}, "num_top_logprobs", "[0, 20]"),
        ({"num_top_logprobs": -1}, "num_top_logprobs", "[0, 20]"),
    ],
)
def test_a_rule_out_of_range_is_refused_with_its_field(fields: dict[str, Any], field: str, allowed: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        valid_sampling(SamplingDraft(**fields), VOCAB_SIZE)
    assert refusal.value.field == field
    assert allowed in refusal.value.allowed


@pytest.mark.parametrize("make", [byte_level_tokenizer, byte_fallback_tokenizer])
@pytest.mark.parametrize("before", ["", " ", "x ", "\n", "x\n"])
def test_a_bad_word_is_kept_from_wherever_a_word_may_begin(make: Callable[[], Any], before: str) -> None:
    tokenizer = Tokenizer(make().to_str().encode())
    words = bad_word_ids(["ab"], tokenizer, VOCAB_SIZE)
    written = tokenizer.encode(before + "ab", add_special_tokens=False)
    assert any(written[-len(word) :] == word for word in words)


def test_a_bad_word_is_kept_from_the_start_of_a_text_and_from_behind_a_space() -> None:
    words = bad_word_ids(["the"], TOKENIZER, VOCAB_SIZE)
    assert {TOKENIZER.decode(word) for word in words} == {"the", " the"}
    assert bad_word_ids([], None, VOCAB_SIZE) == ()


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ([""], "sampling.bad_words[0]"),
        (["a", "  "], "sampling.bad_words[1]"),
        (["x" * 257], "sampling.bad_words[0]"),
        (["a"] * 65, "sampling.bad_words"),
    ],
)
def test_a_bad_word_out_of_range_is_refused_with_its_place(words: list[str], field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        bad_word_ids(words, TOKENIZER, VOCAB_SIZE)
    assert refusal.value.field == field


def test_bad_words_need_a_tokenizer() -> None:
    with pytest.raises(InvalidRequest, match="no tokenizer"):
        bad_word_ids(["a"], None, VOCAB_SIZE)
