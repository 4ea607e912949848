"""/v1/completions: what is asked of the generator, and how answers and streams are written."""

from typing import Any

import pytest

from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.text.tokenizer import Tokenizer
from tests.support.models.sample_tokenizers import EOS_ID, byte_level_tokenizer
from tests.support.service.fakes import FakeGenerator, served_model
from tests.support.service.openai_service import COMPLETIONS, http_app

TOKENIZER = Tokenizer(byte_level_tokenizer().to_str().encode())


def encode(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False))


def saying(text: str, tokens_per_event: int = 1) -> FakeGenerator:
    script = [*encode(text), EOS_ID]
    return FakeGenerator(script=lambda _: script, tokens_per_event=tokens_per_event)


async def test_answer_has_the_form_of_openais() -> None:
    async with http_app(saying("the text 日本😀")) as service:
        response = await service.post(COMPLETIONS, model="fake", prompt="hello")
        answer = response.json()
    num_prompt, num_output = len(encode("hello")), len(encode("the text 日本😀")) + 1
    assert answer["id"].startswith("cmpl-")
    assert response.headers["x-request-id"] == answer["id"]
    assert isinstance(answer["created"], int)
    del answer["id"], answer["created"]
    assert answer == {
        "object": "text_completion",
        "model": "fake",
        "choices": [{"index": 0, "text": "the text 日本😀", "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_output,
            "total_tokens": num_prompt + num_output,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
        "service_tier": None,
    }


@pytest.mark.parametrize("tokens_per_event", [1, 4, 100])
async def test_stream_adds_up_to_the_answer(tokens_per_event: int) -> None:
    async with http_app(saying("naïve 日本😀 café", tokens_per_event)) as service:
        chunks = await service.chunks(COMPLETIONS, prompt="hello")
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "naïve 日本😀 café"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert not any("usage" in chunk for chunk in chunks)


async def test_usage_comes_in_a_last_chunk_without_choices_if_asked_for() -> None:
    async with http_app(FakeGenerator()) as service:
        options = {"include_usage": True}
        *chunks, last = await service.chunks(COMPLETIONS, prompt=[5, 6], max_tokens=3, stream_options=options)
    assert [chunk["usage"] for chunk in chunks] == [None] * 3
    assert last["choices"] == []
    counts = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert last["usage"] == {**counts, "prompt_tokens_details": {"cached_tokens": 0}}


async def test_usage_comes_with_every_chunk_if_asked_for() -> None:
    async with http_app(FakeGenerator()) as service:
        options = {"include_usage": True, "continuous_usage_stats": True}
        *chunks, last = await service.chunks(COMPLETIONS, prompt=[5, 6], max_tokens=3, stream_options=options)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 3]
    assert last["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize(
    ("tier", "request_class"),
    [
        ("auto", RequestClass.LATENCY_SENSITIVE),
        ("default", RequestClass.LATENCY_SENSITIVE),
        ("priority", RequestClass.LATENCY_SENSITIVE),
        ("flex", RequestClass.BEST_EFFORT),
        ("batch", RequestClass.BEST_EFFORT),
        (None, RequestClass.LATENCY_SENSITIVE),
    ],
)
async def test_service_tier_is_the_class_and_is_echoed(tier: str | None, request_class: RequestClass) -> None:
    generator = FakeGenerator()
    async with http_app(generator) as service:
        answer = await service.answer(COMPLETIONS, prompt="hello", service_tier=tier)
        chunks = await service.chunks(COMPLETIONS, prompt="hello", service_tier=tier)
    assert answer["service_tier"] == tier
    assert {chunk["service_tier"] for chunk in chunks} == {tier}
    assert [request.request_class for request in generator.submitted] == [request_class] * 2


async def test_defaults_are_openais() -> None:
    generator = FakeGenerator()
    async with http_app(generator) as service:
        await service.answer(COMPLETIONS, prompt="hello")
    [request] = generator.submitted
    assert list(request.prompt_token_ids) == encode("hello")
    assert (request.stop.max_tokens, request.stop.min_tokens, request.stop.stop_token_ids) == (16, 0, (EOS_ID,))
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (1.0, 0, 1.0, 0.0)


async def test_choices_reach_the_generator() -> None:
    generator = FakeGenerator()
    async with http_app(generator) as service:
        await service.answer(
            COMPLETIONS,
            prompt=[5, 6],
            max_tokens=4,
            min_tokens=2,
            ignore_eos=True,
            stop_token_ids=[9, 9, 8],
            temperature=0.5,
            top_k=3,
            top_p=0.25,
            min_p=0.125,
            seed=-9,
        )
    [request] = generator.submitted
    assert request.prompt_token_ids == (5, 6)
    assert (request.stop.max_tokens, request.stop.min_tokens, request.stop.stop_token_ids) == (4, 2, (9, 8))
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.5, 3, 0.25, 0.125)
    assert sampling.seed == -9


async def test_null_is_the_same_as_nothing_and_minus_one_keeps_all_tokens() -> None:
    generator = FakeGenerator()
    fields = ("temperature", "top_p", "max_tokens", "stop", "seed", "n", "stream", "stream_options", "logprobs", "echo")
    async with http_app(generator) as service:
        await service.answer(COMPLETIONS, prompt="hello", top_k=-1, **dict.fromkeys(fields))
    assert generator.submitted[0].sampling.top_k == 0
    assert generator.submitted[0].stop.max_tokens == 16


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_both_names_of_the_limit_are_known(field: str) -> None:
    async with http_app(FakeGenerator()) as service:
        answer = await service.answer(COMPLETIONS, prompt="hello", **{field: 3})
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("stop", ["TOP", ["never", "TOP"]])
async def test_stop_string_ends_the_text_and_the_work(stop: object) -> None:
    generator = saying("the quick STOP and more")
    async with http_app(generator) as service:
        answer = await service.answer(COMPLETIONS, prompt="hello", stop=stop)
    assert answer["choices"][0]["text"] == "the quick S"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert generator.closed_early


async def test_token_ids_come_if_asked_for() -> None:
    async with http_app(FakeGenerator()) as service:
        answer = await service.answer(COMPLETIONS, prompt=[5, 6], max_tokens=3, return_token_ids=True)
        chunks = await service.chunks(COMPLETIONS, prompt=[5, 6], max_tokens=3, return_token_ids=True)
    assert answer["choices"][0]["token_ids"] == [5, 6, 5]
    assert [chunk["choices"][0]["token_ids"] for chunk in chunks] == [[5], [6], [5]]


async def test_alternatives_of_each_token_are_told_by_their_text() -> None:
    async with http_app(saying("the日")) as service:
        answer = await service.answer(COMPLETIONS, prompt="hello", logprobs=3)
    logprobs = answer["choices"][0]["logprobs"]
    for token, logprob, top in zip(*(logprobs[f] for f in ("tokens", "token_logprobs", "top_logprobs")), strict=True):
        assert top[token] == logprob
        assert 1 < len(top) <= 3  # two tokens may have one text


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "integer"}}}},
        {"structured_outputs": {"json": {"type": "integer"}}},
        {"structured_outputs": {"json_object": True}},
        {"structured_outputs": {"choice": ["a", "b"]}},
        {"guided_json": '{"type": "integer"}', "guided_decoding_backend": "auto", "guided_whitespace_pattern": None},
        {"structured_outputs": {"regex": "[ab]+", "disable_fallback": True, "disable_any_whitespace": False}},
        {"guided_regex": "[ab]+"},
        {"guided_grammar": 'start: "a"'},
        {"structured_outputs": {"grammar": 'root ::= "a" | "b"'}},
    ],
    ids=str,
)
async def test_a_structure_reaches_the_generator_as_a_grammar(fields: dict[str, Any]) -> None:
    generator = FakeGenerator()
    async with http_app(generator) as service:
        await service.answer(COMPLETIONS, prompt="hello", **fields)
        await service.answer(COMPLETIONS, prompt="hello", response_format={"type": "text"})
    kept, free = generator.submitted
    assert kept.sampling.grammar
    assert not free.sampling.grammar


async def test_rules_of_choosing_reach_the_generator() -> None:
    generator = FakeGenerator()
    rules = {"repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": -0.5, "allowed_token_ids": [9, 8]}
    async with http_app(generator) as service:
        await service.answer(COMPLETIONS, prompt="hello", logit_bias={"7": 2}, bad_words=["the"], **rules)
    sampling = generator.submitted[0].sampling
    assert (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1.5, 0.5, -0.5)
    assert (sampling.logit_bias, sampling.allowed_token_ids) == (((7, 2),), (8, 9))
    assert sampling.bad_words


async def test_logprobs_are_those_of_the_chosen_tokens() -> None:
    async with http_app(saying("the日")) as service:
        answer = await service.answer(COMPLETIONS, prompt="hello", logprobs=0)
        chunks = await service.chunks(COMPLETIONS, prompt="hello", logprobs=0)
    logprobs = answer["choices"][0]["logprobs"]
    assert logprobs["tokens"][-1] == "</s>"
    assert logprobs["token_logprobs"] == [-0.5] * len(logprobs["tokens"])
    assert logprobs["tokens"] == ["the", "bytes:\\xe6\\x97", "bytes:\\xa5", "</s>"]
    assert logprobs["text_offset"] == [0, 3, 3, 4]
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert {field: [one for part in parts for one in part[field]] for field in ("tokens", "text_offset")} == {
        field: logprobs[field] for field in ("tokens", "text_offset")
    }


@pytest.mark.parametrize("prompts", [["hello", "abc"], [[5, 6], [7]]])
async def test_each_prompt_gets_its_choices(prompts: list[object]) -> None:
    generator = FakeGenerator()
    async with http_app(generator) as service:
        answer = await service.answer(COMPLETIONS, prompt=prompts, max_tokens=2, n=2, seed=40, return_token_ids=True)
    ids = [encode(one) if isinstance(one, str) else one for one in prompts]
    assert [list(request.prompt_token_ids) for request in generator.submitted] == [ids[0], ids[0], ids[1], ids[1]]
    assert [request.sampling.seed for request in generator.submitted] == [40, 41, 40, 41]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    expected = [[one[i % len(one)] for i in range(2)] for one in (ids[0], ids[0], ids[1], ids[1])]
    assert [choice["token_ids"] for choice in answer["choices"]] == expected
    assert answer["usage"]["prompt_tokens"] == len(ids[0]) + len(ids[1])
    assert answer["usage"]["completion_tokens"] == 8


async def test_streams_of_several_choices_are_told_apart_by_their_index() -> None:
    async with http_app(FakeGenerator()) as service:
        chunks = await service.chunks(COMPLETIONS, prompt=[[5, 6], [7]], max_tokens=4, return_token_ids=True)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [i for one in choices if one["index"] == 0 for i in one["token_ids"]] == [5, 6, 5, 6]
    assert [i for one in choices if one["index"] == 1 for i in one["token_ids"]] == [7] * 4


async def test_what_clients_send_and_changes_nothing_is_dropped() -> None:
    harmless = {
        "user": "me",
        "metadata": {"a": 1},
        "store": False,
        "echo": False,
        "best_of": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "logit_bias": {},
        "suffix": None,
        "skip_special_tokens": True,
    }
    async with http_app(FakeGenerator()) as service:
        assert (await service.post(COMPLETIONS, prompt="hello", **harmless)).status_code == 200


async def test_model_without_tokenizer_continues_token_ids() -> None:
    async with http_app(FakeGenerator(model=served_model(tokenizer_json=b""))) as service:
        answer = await service.answer(COMPLETIONS, prompt=[5], max_tokens=2, return_token_ids=True, logprobs=0)
    assert answer["choices"][0]["text"] == ""
    assert answer["choices"][0]["token_ids"] == [5, 5]


async def test_the_prompts_tokens_come_with_each_choice_if_token_ids_are_asked_for() -> None:
    asked = {"prompt": [[5], [6, 7]], "n": 2, "return_token_ids": True}
    prompts = [[5], [5], [6, 7], [6, 7]]
    async with http_app(FakeGenerator()) as service:
        answer = await service.answer(COMPLETIONS, **asked)
        assert [choice["prompt_token_ids"] for choice in answer["choices"]] == prompts
        told: dict[int, list[object]] = {}
        for chunk in await service.chunks(COMPLETIONS, **asked):
            choice = chunk["choices"][0]
            told.setdefault(choice["index"], []).append(choice.get("prompt_token_ids"))
    assert [told[index][0] for index in range(4)] == prompts
    assert not any(any(parts[1:]) for parts in told.values())


async def test_a_stream_sends_nothing_while_text_is_held_back() -> None:
    script = [*encode("ab"), *encode("XYZ"), *encode("c"), EOS_ID]
    async with http_app(FakeGenerator(script=lambda _: script)) as service:
        asked = {"prompt": "hello", "stop": ["XYZ!"], "max_tokens": 32}
        chunks = await service.chunks(COMPLETIONS, **asked)
        texts = [chunk["choices"][0]["text"] for chunk in chunks]
        assert "".join(texts) == "abXYZc"
        assert all(texts[:-1])
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
        asked["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
        *counted, _ = await service.chunks(COMPLETIONS, **asked)
        assert len(counted) > len(chunks)  # each token is news
