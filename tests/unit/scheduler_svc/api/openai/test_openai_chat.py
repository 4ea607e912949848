"""/v1/chat/completions: how conversations become prompts, and how answers and streams are written."""

from typing import Any

import pytest

from scheduler_svc.caller import current_caller
from scheduler_svc.text.threads import TextThreads
from scheduler_svc.text.tokenizer import Tokenizer
from tests.support.models.chat_templates import PARTS, SYSTEM_AND_USER
from tests.support.models.sample_tokenizers import EOS_ID, byte_level_tokenizer
from tests.support.service.fakes import FakeGenerator, served_model
from tests.support.service.openai_service import CHAT, USER_SAYS_HI, error_of, http_app, running_http

TOKENIZER = Tokenizer(byte_level_tokenizer().to_str().encode())
CONTEXT = 512


def encode(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False))


def saying(text: str) -> FakeGenerator:
    return FakeGenerator(script=lambda _: [*encode(text), EOS_ID])


async def test_answer_has_the_form_of_openais() -> None:
    async with http_app(saying("hello you")) as service:
        answer = await service.answer(CHAT, model="fake", messages=USER_SAYS_HI, service_tier="flex")
    assert answer["id"].startswith("chatcmpl-")
    assert (answer["object"], answer["model"], answer["service_tier"]) == ("chat.completion", "fake", "flex")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "hello you", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"]["completion_tokens"] == len(encode("hello you")) + 1


async def test_first_chunk_has_the_role_and_all_of_them_the_text() -> None:
    async with http_app(saying("hello 日本")) as service:
        chunks = await service.chunks(CHAT, messages=USER_SAYS_HI, service_tier="batch")
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["service_tier"] for chunk in chunks} == {"batch"}
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert [delta.get("role") for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    assert "".join(delta["content"] for delta in deltas) == "hello 日本"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("hi", "hi"),
        ([{"type": "text", "text": "hi"}], "hi"),
        ([{"type": "text", "text": "hi"}, {"type": "text", "text": "you"}], "hi\nyou"),
    ],
)
async def test_conversation_is_rendered_with_the_models_template(content: object, text: str) -> None:
    generator = saying("x")
    async with http_app(generator) as service:
        await service.answer(CHAT, messages=[{"role": "user", "content": content}])
    assert list(generator.submitted[0].prompt_token_ids) == encode(f"<s>[user] {text}\n[assistant] ")


async def test_a_turn_that_the_template_would_drop_is_refused_by_name() -> None:
    generator = FakeGenerator(served_model(chat_template=SYSTEM_AND_USER))
    messages = [*USER_SAYS_HI, {"role": "assistant", "content": "ho"}, *USER_SAYS_HI]
    async with http_app(generator) as service:
        response = await service.post(CHAT, messages=messages)
        error = error_of(response)
        assert (response.status_code, error["param"]) == (400, "messages[1].role")
        assert "'assistant'" in error["message"]
        assert "it takes system, developer, user" in error["message"]
        assert generator.submitted == []
        await service.answer(CHAT, messages=[{"role": "developer", "content": "be brief"}, *USER_SAYS_HI])
    assert list(generator.submitted[0].prompt_token_ids) == encode("Sbe briefUhi")


@pytest.mark.parametrize("content", ["one two", [{"type": "text", "text": "one two"}]])
async def test_a_template_that_walks_parts_gets_parts(content: object) -> None:
    generator = FakeGenerator(served_model(chat_template=PARTS))
    async with http_app(generator) as service:
        await service.answer(CHAT, messages=[{"role": "user", "content": content}])
    assert list(generator.submitted[0].prompt_token_ids) == encode("USER: one twoASSISTANT:")


async def test_special_token_as_stop_string_ends_the_text_and_one_inside_of_another_text_is_refused() -> None:
    generator = FakeGenerator(served_model(eos_token_ids=()), script=lambda _: [*encode("hello"), EOS_ID, 65])
    async with http_app(generator) as service:
        answer = await service.answer(CHAT, messages=USER_SAYS_HI, stop=["</s>\n"], return_token_ids=True)
        refused = await service.post(CHAT, messages=USER_SAYS_HI, stop=["x", "x</s>"])
    [choice] = answer["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("hello", "stop")
    assert choice["token_ids"] == [*encode("hello"), EOS_ID]
    assert refused.status_code == 400
    assert error_of(refused)["param"] == "stop[1]"


async def test_the_client_is_known_to_what_is_done_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_by: list[str] = []
    run = TextThreads.run

    async def recorded(*args: Any) -> Any:
        asked_by.append(current_caller())
        return await run(*args)

    monkeypatch.setattr(TextThreads, "run", recorded)
    async with running_http(saying("hello")) as service:
        for stream in (False, True):
            assert (await service.post(CHAT, messages=USER_SAYS_HI, stream=stream)).status_code == 200
    assert len(asked_by) >= 2
    assert set(asked_by) == {"127.0.0.1"}


async def test_answer_may_be_sent_back_as_the_sdk_holds_it() -> None:
    echoed = {
        "role": "assistant",
        "content": "hello",
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    }
    async with http_app(saying("x")) as service:
        await service.answer(CHAT, messages=[*USER_SAYS_HI, echoed, *USER_SAYS_HI], tools=[], response_format=None)


async def test_answer_may_be_as_long_as_the_context_allows() -> None:
    generator = saying("x")
    async with http_app(generator) as service:
        await service.answer(CHAT, messages=USER_SAYS_HI)
    [request] = generator.submitted
    assert request.stop.max_tokens == CONTEXT - len(request.prompt_token_ids)


async def test_logprobs_and_token_ids_come_if_asked_for() -> None:
    async with http_app(saying("the日")) as service:
        answer = await service.answer(CHAT, messages=USER_SAYS_HI, logprobs=True, return_token_ids=True, top_logprobs=0)
    choice = answer["choices"][0]
    tokens = choice["logprobs"]["content"]
    assert choice["token_ids"] == [*encode("the日"), EOS_ID]
    assert len(tokens) == len(choice["token_ids"])
    assert tokens[0] == {"token": tokens[0]["token"], "logprob": -0.5, "bytes": [*b"the"], "top_logprobs": []}
    assert bytes(byte for token in tokens[:-1] for byte in token["bytes"]).decode() == "the日"
    assert tokens[1]["token"] == "bytes:\\xe6\\x97"
    assert (tokens[-1]["token"], tokens[-1]["bytes"]) == ("</s>", [*b"</s>"])


async def test_alternatives_of_each_token_come_if_asked_for() -> None:
    async with http_app(saying("the日")) as service:
        options: dict[str, object] = {"messages": USER_SAYS_HI, "logprobs": True, "top_logprobs": 2}
        answer = await service.answer(CHAT, **options)
        plain = await service.answer(CHAT, messages=USER_SAYS_HI, logprobs=True)
    tokens = answer["choices"][0]["logprobs"]["content"]
    for token in tokens:
        first, second = token["top_logprobs"]
        assert first == {field: token[field] for field in ("token", "logprob", "bytes")}
        assert second["logprob"] == -1
    without = [{**token, "top_logprobs": []} for token in tokens]
    assert without == plain["choices"][0]["logprobs"]["content"]  # looking at others changes no text


async def test_several_choices_are_streamed_side_by_side() -> None:
    async with http_app(FakeGenerator()) as service:
        chunks = await service.chunks(CHAT, messages=USER_SAYS_HI, n=3, max_tokens=2)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert sorted(choice["index"] for choice in choices) == [0, 0, 1, 1, 2, 2]
    assert sum("role" in choice["delta"] for choice in choices) == 3


async def test_the_prompts_tokens_come_beside_the_choices_if_token_ids_are_asked_for() -> None:
    async with http_app(FakeGenerator()) as service:
        answer = await service.answer(CHAT, messages=USER_SAYS_HI, return_token_ids=True, n=2)
        prompt = list(service.generator.submitted[0].prompt_token_ids)
        assert answer["prompt_token_ids"] == prompt
        first, *others = await service.chunks(CHAT, messages=USER_SAYS_HI, return_token_ids=True, n=2)
        assert first["prompt_token_ids"] == prompt
        assert not any("prompt_token_ids" in chunk for chunk in others)
        assert "prompt_token_ids" not in await service.answer(CHAT, messages=USER_SAYS_HI)
