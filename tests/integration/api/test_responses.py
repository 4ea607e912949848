"""OpenAI's own client asks the whole service for responses."""

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.support.service.live_service import LiveService

# The SDK would retry what these tests want to see refused.
OPTIONS: dict[str, Any] = {"api_key": "none", "max_retries": 0, "timeout": 300}
Asked = dict[str, Any]


class Verdict(BaseModel):
    """What an answer is asked to be."""

    is_code: bool
    language: Literal["python", "c"]


@pytest.fixture
def client(live_service: LiveService, http_port: int) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{http_port}/v1", **OPTIONS) as client:
        yield client


@pytest.fixture
def asked(live_service: LiveService) -> Asked:
    return {"model": live_service.model_facts.name, "temperature": 0, "input": "Write a function `main`."}


def test_a_response_says_what_a_chat_says(client: openai.OpenAI, asked: Asked) -> None:
    response = client.responses.create(**asked, max_output_tokens=24, instructions="Be brief.")
    chat: Any = client.chat.completions.create(
        model=asked["model"],
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": asked["input"]}],
        max_completion_tokens=24,
        temperature=0,
    )
    assert response.output_text == chat.choices[0].message.content != ""
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (chat.usage.prompt_tokens, 24)
    assert (response.status, response.store) == ("incomplete", False)  # type: ignore[attr-defined]
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("service_tier", ["default", "flex"])
def test_a_stream_adds_up_to_its_response(
    client: openai.OpenAI, asked: Asked, service_tier: Literal["default", "flex"]
) -> None:
    options = {**asked, "service_tier": service_tier, "text": {"format": {"type": "json_object"}}, "seed": 3}
    extra = {"seed": options.pop("seed")}
    with client.responses.stream(
        **options, max_output_tokens=24, extra_body=extra, include=["message.output_text.logprobs"], top_logprobs=2
    ) as stream:
        events: list[Any] = list(stream)
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    last = events[-1].response
    assert "".join(event.delta for event in deltas) == last.output_text
    assert deltas[-1].snapshot == last.output_text
    [message] = last.output
    assert [one.token for one in message.content[0].logprobs] == [
        one.token for event in deltas for one in event.logprobs
    ]
    assert len(message.content[0].logprobs) == last.usage.output_tokens
    assert events[-1].type == f"response.{last.status}"


def test_parse_returns_what_its_model_describes(client: openai.OpenAI, asked: Asked) -> None:
    response = client.responses.parse(**{**asked, "temperature": 1}, text_format=Verdict, max_output_tokens=400)
    assert response.status == "completed"
    assert response.output_parsed == Verdict.model_validate_json(response.output_text)


def test_the_next_turn_takes_the_items_of_the_last(client: openai.OpenAI, asked: Asked) -> None:
    first = client.responses.create(**asked, max_output_tokens=8)
    turn: list[Any] = [{"role": "user", "content": asked["input"]}, *first.output, {"role": "user", "content": "More."}]
    second = client.responses.create(**{**asked, "input": turn}, max_output_tokens=8)
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens + 8


def test_what_would_need_a_store_is_refused_by_name(client: openai.OpenAI, asked: Asked) -> None:
    with pytest.raises(openai.BadRequestError, match="nothing is kept") as caught:
        client.responses.create(**asked, previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_1")


async def test_a_client_that_leaves_takes_its_response_along(
    live_service: LiveService, http_port: int, asked: Asked
) -> None:
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{http_port}/v1", **OPTIONS) as client:
        stream = await client.responses.create(
            **asked,
            stream=True,
            max_output_tokens=1500,
            extra_body={"ignore_eos": True},
        )
        async for event in stream:
            if event.type == "response.output_text.delta":
                break
        await stream.close()
    before = live_service.loads().latency_sensitive.num_generated_tokens
    while live_service.loads().free_blocks < live_service.loads().total_blocks:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    assert live_service.loads().latency_sensitive.num_generated_tokens - before < 1000
