"""Texts become token ids and texts again, at the paths and in the words of vLLM."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from tests.support.models import tool_templates
from tests.support.models.sample_tokenizers import EOS_ID, byte_level_tokenizer
from tests.support.security.api_keys import entry, gate_of
from tests.support.service.fakes import FakeGenerator, served_model
from tests.support.service.openai_service import USER_SAYS_HI, HttpService, http_app

TEXT = "def 日本"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def encode(text: str) -> list[int]:
    return byte_level_tokenizer().encode(text).ids


@pytest.mark.parametrize("base", ["", "/v1"])
async def test_a_text_becomes_the_tokens_that_a_completion_of_it_has_and_comes_back(base: str) -> None:
    generator = FakeGenerator()
    async with http_app(generator) as service:
        answer = await service.answer(f"{base}/tokenize", prompt=TEXT, return_token_strs=True)
        await service.answer("/v1/completions", prompt=TEXT)
        back = await service.answer(f"{base}/detokenize", tokens=answer["tokens"])
    assert tuple(answer["tokens"]) == generator.submitted[0].prompt_token_ids
    assert (answer["count"], answer["max_model_len"]) == (len(answer["tokens"]), 512)
    assert answer["token_strs"] == byte_level_tokenizer().encode(TEXT).tokens
    assert back == {"prompt": TEXT}


async def test_a_conversation_becomes_the_tokens_that_an_answer_to_it_has() -> None:
    generator = FakeGenerator()
    async with http_app(generator) as service:
        answer = await service.answer("/tokenize", messages=USER_SAYS_HI)
        await service.answer("/v1/chat/completions", messages=USER_SAYS_HI)
    assert tuple(answer["tokens"]) == generator.submitted[0].prompt_token_ids
    assert answer["token_strs"] is None


async def test_special_tokens_are_part_of_a_text_that_is_asked_for_by_tokens() -> None:
    async with http_app(FakeGenerator()) as service:
        back = await service.answer("/detokenize", tokens=[*encode("a"), EOS_ID])
    assert back["prompt"] == "a</s>"


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/tokenize", {}, ("prompt", "messages in its place")),
        ("/tokenize", {"prompt": "a", "messages": USER_SAYS_HI}, ("prompt", "not both")),
        ("/tokenize", {"prompt": ""}, ("prompt", "not empty")),
        ("/tokenize", {"messages": USER_SAYS_HI, "add_special_tokens": True}, ("add_special_tokens", "false or null")),
        ("/tokenize", {"prompt": "a", "tools": [TOOL]}, ("tools", "part of a conversation")),
        ("/tokenize", {"messages": USER_SAYS_HI, "tools": [TOOL]}, ("tools", "writes no functions")),
        ("/tokenize", {"messages": USER_SAYS_HI, "tools": [{**TOOL, "type": "x"}]}, ("tools[0].type",)),
        ("/tokenize", {"messages": USER_SAYS_HI, "chat_template_kwargs": {"tools": 1}}, ("chat_template_kwargs",)),
        ("/tokenize", {"messages": USER_SAYS_HI, "continue_final_message": True}, ("continue_final_message",)),
        ("/detokenize", {"tokens": [1] * 513}, ("tokens", "513 ids", "at most 512")),
        ("/tokenize", {"prompt": "a", "model": "other"}, ("other",)),
        ("/tokenize", {"messages": [{"role": "", "content": "a"}]}, ("messages[0].role", "printable")),
        ("/detokenize", {"tokens": [1, 400_000]}, ("tokens[1]", "400000")),
        ("/detokenize", {"tokens": "a"}, ("tokens", "list")),
    ],
)
async def test_bad_input_is_refused_with_its_field(path: str, body: dict[str, object], said: tuple[str, ...]) -> None:
    async with http_app(FakeGenerator()) as service:
        response = await service.post(path, **body)
    assert response.status_code in (400, 404)
    assert all(word in response.text for word in said), response.text


async def test_the_root_says_what_this_is() -> None:
    async with http_app(FakeGenerator()) as service:
        root = (await service.http.get("/")).json()
        ping = await service.http.get("/ping")
        posted = await service.http.post("/ping")
    assert (root["name"], root["model"], root["worker"]) == ("QLLM", "fake", "ready")
    assert ping.json() == posted.json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
async def test_tokens_are_told_within_a_tenants_quota_and_until_the_service_stops(path: str, tmp_path: Path) -> None:
    body = {"prompt": "a"} if path == "/tokenize" else {"tokens": [1]}
    key, others = entry("a", "key-a", requests_per_minute=2), entry("b", "key-b")
    async with http_app(FakeGenerator(), gate=gate_of(tmp_path / "keys.toml", key, others)) as service:
        statuses = [await status_of(service, path, "key-a", body) for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert await status_of(service, path, "key-b", body) == 200
        service.texts.entrance.close()
        assert await status_of(service, path, "key-b", body) == 503


async def status_of(service: HttpService, path: str, key: str, body: dict[str, object]) -> int:
    response = await service.http.post(path, json=body, headers={"authorization": f"Bearer {key}"})
    return response.status_code


async def test_a_place_of_a_tenant_is_given_back_whatever_becomes_of_its_text(tmp_path: Path) -> None:
    gate = gate_of(tmp_path / "keys.toml", entry("a", "key-a", max_live=1))
    async with http_app(FakeGenerator(), gate=gate) as service:
        for body, status in (({"prompt": "a"}, 200), ({"prompt": ""}, 400), ({"prompt": "a"}, 200)):
            assert await status_of(service, "/tokenize", "key-a", body) == status


async def test_a_text_may_be_tokenized_without_special_tokens() -> None:
    tokenizer = Tokenizer.from_str(byte_level_tokenizer().to_str())  # the other is everybody's
    tokenizer.post_processor = TemplateProcessing("<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    generator = FakeGenerator(served_model(tokenizer_json=tokenizer.to_str().encode()))
    async with http_app(generator) as service:
        told = [await service.answer("/tokenize", prompt="a", add_special_tokens=adds) for adds in (True, False)]
        for adds in (True, False):
            await service.answer("/v1/completions", prompt="a", add_special_tokens=adds)
    assert told[0]["tokens"] != told[1]["tokens"]
    assert [tuple(one["tokens"]) for one in told] == [one.prompt_token_ids for one in generator.submitted]


@pytest.mark.parametrize(
    "further",
    [
        {"tools": [TOOL]},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"add_generation_prompt": False},
        {"add_generation_prompt": False, "continue_final_message": True},
    ],
)
async def test_a_conversation_is_tokenized_with_all_that_the_model_is_told(further: dict[str, object]) -> None:
    generator = FakeGenerator(served_model(chat_template=tool_templates.QWEN))
    async with http_app(generator) as service:
        plain = await service.answer("/tokenize", messages=USER_SAYS_HI)
        answer = await service.answer("/tokenize", messages=USER_SAYS_HI, **further)
        await service.answer("/v1/chat/completions", messages=USER_SAYS_HI, **further)
    assert tuple(answer["tokens"]) == generator.submitted[0].prompt_token_ids
    assert answer["tokens"] != plain["tokens"]
