"""Functions and thoughts in responses: what reaches the template, and the items that come of what the model writes."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from tests.support.models import tool_templates
from tests.support.models.sample_tokenizers import EOS_ID, byte_level_tokenizer
from tests.support.service.fakes import FakeGenerator, served_model
from tests.support.service.openai_service import RESPONSES, HttpService, error_of, http_app, said_in

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "name": "weather", "description": "Tells it.", "parameters": SCHEMA, "strict": True}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
WRITTEN = f"<think>\nhm, hm\n</think>\n\nI look.\n{CALL}\n{CALL}"


@pytest.fixture
async def service() -> AsyncIterator[HttpService]:
    """A service whose model thinks, says something and calls a function twice."""
    token_ids = byte_level_tokenizer().encode(WRITTEN, add_special_tokens=False).ids
    served = served_model(chat_template=tool_templates.QWEN)
    served = replace(served, core=replace(served.core, max_model_len=4096))
    async with http_app(FakeGenerator(served, script=lambda _: [*token_ids, EOS_ID])) as service:
        yield service


async def last_of_stream(service: HttpService, **body: object) -> dict[str, Any]:
    response = await service.post(RESPONSES, stream=True, **body)
    assert response.status_code == 200, response.text
    events = [json.loads(part.split("\ndata: ")[1]) for part in response.text.split("\n\n")[:-1]]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    last: dict[str, Any] = events[-1]["response"]
    assert done == last["output"]
    return last


def prompt_of(service: HttpService) -> str:
    [*_, request] = service.generator.submitted
    return byte_level_tokenizer().decode(list(request.prompt_token_ids), skip_special_tokens=False)


async def test_thoughts_words_and_calls_are_items_in_their_order_whole_and_streamed(service: HttpService) -> None:
    whole = await service.answer(RESPONSES, input="hi", tools=[WEATHER])
    streamed = await last_of_stream(service, input="hi", tools=[WEATHER])
    for response in (whole, streamed):
        thought, said, first, second = response["output"]
        assert thought["content"] == [{"type": "reasoning_text", "text": "hm, hm"}]
        assert said["content"][0]["text"] == "I look."
        for call in (first, second):
            assert call.pop("call_id").startswith("call_")
            assert (call["type"], call["name"], call["status"]) == ("function_call", "weather", "completed")
            assert json.loads(call["arguments"]) == {"city": "Köln"}
        assert response["status"] == "completed"
        assert response["tools"] == [WEATHER]
    assert said_in(whole) == said_in(streamed)


LOGPROBS = {"include": ["message.output_text.logprobs"]}


@pytest.mark.parametrize("thoughts", [True, False], ids=["with thoughts", "without"])
async def test_log_probabilities_are_those_of_the_texts_tokens_alone(service: HttpService, thoughts: bool) -> None:
    asked = {"input": "hi", "tools": [WEATHER], "include_reasoning": thoughts, **LOGPROBS}
    whole = await service.answer(RESPONSES, **asked)
    streamed = await last_of_stream(service, **asked)
    assert said_in(whole["output"][: int(thoughts) + 1]) == said_in(streamed["output"][: int(thoughts) + 1])
    kinds = [item["type"] for item in whole["output"]]
    assert kinds == ["reasoning"] * thoughts + ["message", "function_call", "function_call"]
    [part] = whole["output"][int(thoughts)]["content"]
    assert bytes(byte for token in part["logprobs"] for byte in token["bytes"]).decode() == part["text"] == "I look."


async def test_no_event_of_a_text_is_without_text(service: HttpService) -> None:
    response = await service.post(RESPONSES, stream=True, input="hi", tools=[WEATHER], **LOGPROBS)
    events = [json.loads(part.split("\ndata: ")[1]) for part in response.text.split("\n\n")[:-1]]
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert all(event["delta"] and event["logprobs"] for event in deltas)
    assert "".join(event["delta"] for event in deltas) == "I look."


@pytest.mark.parametrize("thoughts", [True, False], ids=["with thoughts", "without"])
async def test_how_many_tokens_were_thoughts_is_not_guessed(service: HttpService, thoughts: bool) -> None:
    asked = {"input": "hi", "include_reasoning": thoughts}
    for response in (await service.answer(RESPONSES, **asked), await last_of_stream(service, **asked)):
        assert response["usage"]["output_tokens_details"] == {}


async def test_the_items_of_an_answer_and_what_its_calls_gave_reach_the_template(service: HttpService) -> None:
    first = await service.answer(RESPONSES, input="hi", tools=[WEATHER])
    results = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": f"rain {index}"}
        for index, item in enumerate(first["output"][2:])
    ]
    items = [{"role": "user", "content": "hi"}, *first["output"], *results]
    await service.answer(RESPONSES, input=items, tools=[WEATHER])
    prompt = prompt_of(service)
    assert "<think>\nhm, hm\n</think>" in prompt
    assert prompt.count('{"name": "weather", "arguments": {"city": "Köln"}}') == 2
    assert prompt.index("<tool_response>\nrain 0\n</tool_response>") < prompt.index("\nrain 1\n</tool_response>")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "weather"}])
async def test_a_call_that_must_come_is_kept_to(service: HttpService, choice: object) -> None:
    await service.answer(RESPONSES, input="hi", tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False)
    assert service.generator.submitted[0].sampling.grammar


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"tools": [{**WEATHER, "parameters": {"type": 5}}], "tool_choice": "required"}, "tools[0]"),
    ({"tools": [WEATHER, WEATHER]}, "tools"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "time"}}, "tool_choice"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"reasoning": {"effort": "low"}}, "reasoning.effort"),
    ({"input": [{"type": "function_call", "call_id": "a", "name": "f", "arguments": "["}]}, "input[0].arguments"),
]


async def test_refusals_name_the_field_as_the_caller_wrote_it(service: HttpService) -> None:
    for body, param in REFUSED:
        response = await service.post(RESPONSES, **{"input": "hi", **body})
        assert response.status_code == 400, body
        assert error_of(response)["param"] == param, response.text
