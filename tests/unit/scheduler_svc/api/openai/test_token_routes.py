"""Texts become token ids and texts again, at the paths and in the words of vLLM."""

import pytest

from tests.support.models.sample_tokenizers import EOS_ID, byte_level_tokenizer
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import USER_SAYS_HI, http_app

TEXT = "def 日本"


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
        ("/tokenize", {"prompt": "a", "add_special_tokens": False}, ("add_special_tokens", "true or null")),
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
    assert (root["name"], root["model"], root["worker"]) == ("QLLM", "fake", "ready")
    assert ping.json() == {"status": "ok"}
