"""Tools and thoughts over HTTP: what reaches the template, what the model writes, and what the caller is told of it."""

import json
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from tokenizers import Tokenizer

from scheduler_svc.generation import GenerationRequest
from tests.support.models import tool_templates
from tests.support.models.sample_tokenizers import EOS_ID, byte_level_tokenizer
from tests.support.service.fakes import FakeGenerator, served_model
from tests.support.service.openai_service import CHAT, USER_SAYS_HI, HttpService, error_of, http_app

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": SCHEMA}}
TIME = {"type": "function", "function": {"name": "time"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'


def says(text: str) -> FakeGenerator:
    """A model with Qwen's template, which writes this text."""
    return model(tool_templates.QWEN, text)


def model(template: str, text: str) -> FakeGenerator:
    token_ids = byte_level_tokenizer().encode(text, add_special_tokens=False).ids
    served = served_model(chat_template=template)
    return FakeGenerator(
        model=replace(served, core=replace(served.core, max_model_len=4096)),
        script=lambda request: [*token_ids, EOS_ID],
    )


def prompt_of(request: GenerationRequest) -> str:
    return byte_level_tokenizer().decode(list(request.prompt_token_ids), skip_special_tokens=False)


@pytest.fixture
async def weather() -> AsyncIterator[HttpService]:
    """A service whose model calls a function."""
    async with http_app(says(CALL)) as service:
        yield service


async def whole(service: HttpService, **body: object) -> dict[str, Any]:
    """Returns the choice of an answer."""
    answer = await service.answer(CHAT, **{"messages": USER_SAYS_HI, "tools": [WEATHER], **body})
    choice: dict[str, Any] = answer["choices"][0]
    return choice


async def streamed(service: HttpService, **body: object) -> dict[str, Any]:
    """Returns the choice that a stream adds up to, as whole ones have it."""
    content, reasoning, finish_reason = "", "", None
    calls: list[dict[str, Any]] = []
    for chunk in await service.chunks(CHAT, **{"messages": USER_SAYS_HI, "tools": [WEATHER], **body}):
        choice = chunk["choices"][0]
        content += choice["delta"].get("content") or ""
        reasoning += choice["delta"].get("reasoning_content") or ""
        assert not (choice["finish_reason"] and choice["delta"].get("tool_calls"))  # as the SDK wants it
        for call in choice["delta"].get("tool_calls", ()):
            assert call.pop("index") == len(calls)
            calls.append(call)
        finish_reason = choice["finish_reason"] or finish_reason
    message: dict[str, Any] = {"role": "assistant", "content": content if content or not calls else None}
    message |= {"reasoning_content": reasoning} if reasoning else {}
    return {"message": message | ({"tool_calls": calls} if calls else {}), "finish_reason": finish_reason}


@pytest.mark.parametrize("read", [whole, streamed])
async def test_a_call_is_told_as_openai_tells_it(weather: HttpService, read: Any) -> None:
    choice = await read(weather)
    [call] = choice["message"]["tool_calls"]
    assert call["id"].startswith("call_")
    assert call["type"] == "function"
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Köln"}
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "tool_calls"


async def test_the_template_is_given_the_functions(weather: HttpService) -> None:
    await whole(weather, tools=[WEATHER, TIME])
    prompt = prompt_of(weather.generator.submitted[0])
    assert json.dumps(WEATHER) in prompt
    assert json.dumps(TIME) in prompt


async def test_a_conversation_with_calls_and_results_reaches_the_template(weather: HttpService) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bonn"}'}}
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "ask"},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    await whole(weather, messages=messages)
    prompt = prompt_of(weather.generator.submitted[0])
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>' in prompt
    assert "<tool_response>\nrain\n</tool_response>" in prompt
    assert "be brief" in prompt
    assert "<think>\nask\n</think>" in prompt


async def test_the_engine_is_told_which_tool_is_called(weather: HttpService) -> None:
    await whole(weather)
    await whole(weather, tools=[TIME])  # which is not the one that is called
    assert weather.generator.called == ["weather"]


@pytest.mark.parametrize("read", [whole, streamed])
async def test_thoughts_and_text_are_told_apart(read: Any) -> None:
    async with http_app(says(f"<think>\nhm, hm\n</think>\n\nI look.\n{CALL}")) as service:
        choice = await read(service)
        assert choice["message"]["reasoning_content"] == "hm, hm"
        assert choice["message"]["content"] == "I look."
        assert len(choice["message"]["tool_calls"]) == 1
        assert "reasoning_content" not in (await read(service, include_reasoning=False))["message"]


@pytest.mark.parametrize("read", [whole, streamed])
async def test_a_thought_that_the_prompt_opens_is_one(read: Any) -> None:
    async with http_app(model(tool_templates.QWEN_THINKING, "hm\n</think>\n\nHello <think> you")) as service:
        message = (await read(service))["message"]
        assert (message["reasoning_content"], message["content"]) == ("hm", "Hello <think> you")


async def test_a_thought_that_the_prompt_closed_is_not_looked_for() -> None:
    async with http_app(says("<think>no</think>")) as service:
        choice = await whole(service, chat_template_kwargs={"enable_thinking": False})
        assert choice["message"]["content"] == "<think>no</think>"
        assert prompt_of(service.generator.submitted[0]).endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("read", [whole, streamed])
async def test_what_only_looks_like_a_call_is_text(read: Any) -> None:
    text = f'a <tool_call>{{"name": 3}}</tool_call> and {CALL[:30]}'
    async with http_app(says(text)) as service:
        choice = await read(service)
        assert choice["message"] == {"role": "assistant", "content": text} | (
            {"refusal": None} if read is whole else {}
        )
        assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("choice", [{"tools": None}, {"tool_choice": "none"}])
async def test_without_functions_that_may_be_called_calls_are_text(weather: HttpService, choice: Any) -> None:
    assert (await whole(weather, **choice))["message"]["content"] == CALL


async def test_an_answer_ends_with_the_one_call_that_it_may_have() -> None:
    async with http_app(says(f"{CALL}\n{CALL} and on")) as service:
        assert len((await whole(service))["message"]["tool_calls"]) == 2
        choice = await whole(service, parallel_tool_calls=False)
        assert len(choice["message"]["tool_calls"]) == 1
        assert choice["finish_reason"] == "tool_calls"
        assert len(service.generator.closed_early) == 1
        again = await streamed(service, parallel_tool_calls=False)
        assert len(again["message"]["tool_calls"]) == 1
        assert again["finish_reason"] == "tool_calls"


async def test_mistrals_ids_are_as_its_template_takes_them() -> None:
    text = '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Bonn"}}]'
    async with http_app(model(tool_templates.MISTRAL, text)) as service:
        message = (await whole(service))["message"]
        call_id = message["tool_calls"][0]["id"]
        assert len(call_id) == 9
        messages = [*USER_SAYS_HI, message, {"role": "tool", "tool_call_id": call_id, "content": "rain"}]
        await whole(service, messages=messages)
        assert f'"call_id": "{call_id}"' in prompt_of(service.generator.submitted[1])


async def test_marks_that_are_special_tokens_are_read_and_never_shown() -> None:
    tokenizer = Tokenizer.from_str(byte_level_tokenizer().to_str())
    tokenizer.add_special_tokens(["[TOOL_CALLS]", "<think>", "</think>"])
    text = '<think>hm</think>I look.[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Köln"}}]'
    served = model(tool_templates.MISTRAL + "{# <think> #}", "").model
    assert served is not None
    served = replace(served, tokenizer_json=tokenizer.to_str().encode(), vocab_size=tokenizer.get_vocab_size())
    token_ids = tokenizer.encode(text, add_special_tokens=False).ids
    async with http_app(FakeGenerator(model=served, script=lambda request: [*token_ids, EOS_ID])) as service:
        message = (await whole(service))["message"]
        assert (message["reasoning_content"], message["content"]) == ("hm", "I look.")
        assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"city": "Köln"}
        assert (await whole(service, tools=None))["message"]["content"].startswith("I look.[{")


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {}}, "required": 5},
        {"properties": 5},
        {"properties": {"a": {"$ref": "#/$defs/none"}}},
    ],
)
@pytest.mark.parametrize("mark", ["<tool_call>", "<arg_key>", "<function="])
async def test_a_schema_that_makes_no_sense_is_the_callers_mistake(mark: str, schema: dict[str, Any]) -> None:
    async with http_app(model(tool_templates.QWEN.replace("<tool_call>", mark), CALL)) as service:
        tools = [tool(parameters={"type": "object", **schema})]
        response = await service.post(CHAT, messages=USER_SAYS_HI, tools=tools, tool_choice="required")
        assert response.status_code == 400, response.text
        assert error_of(response)["param"] in ("tools", "tools[0]")


async def test_a_template_that_knows_a_call_by_missing_content_gets_none() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages = [
        *USER_SAYS_HI,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    async with http_app(model(tool_templates.DEEPSEEK_R1, "ok")) as service:
        await whole(service, messages=messages)
        assert "<｜tool▁sep｜>weather\n```json\n{}" in prompt_of(service.generator.submitted[0])


async def test_a_template_without_functions_is_said_to_have_none() -> None:
    async with http_app(FakeGenerator()) as service:
        response = await service.post(CHAT, messages=USER_SAYS_HI, tools=[WEATHER], tool_choice="required")
        assert response.status_code == 400
        error = error_of(response)
        assert error["param"] == "tools"
        assert "chat template writes no functions" in error["message"]
        assert (await whole(service, tool_choice="none"))["finish_reason"] == "length"


async def test_where_the_format_is_not_known_answers_that_must_call_are_json() -> None:
    template = "{{ tools | tojson }}{% for message in messages %}{{ message.content }}{% endfor %}"
    text = '{"name": "weather", "parameters": {"city": "Bonn"}}'
    async with http_app(model(template, text)) as service:
        assert len((await whole(service, tool_choice="required"))["message"]["tool_calls"]) == 1
        assert (await whole(service, tool_choice="none"))["message"]["content"] == text
        response = await service.post(CHAT, messages=USER_SAYS_HI, tools=[WEATHER])
        assert error_of(response)["param"] == "tools"
        assert "--tool-parser" in error_of(response)["message"]


async def test_an_answer_that_must_call_has_a_grammar_and_others_none(weather: HttpService) -> None:
    named = {"type": "function", "function": {"name": "time"}}
    for choice in ("auto", "none", "required", named):
        await whole(weather, tools=[WEATHER, TIME], tool_choice=choice)
    grammars = [request.sampling.grammar for request in weather.generator.submitted]
    assert grammars[:2] == ["", ""]
    assert ("weather" in grammars[2], "time" in grammars[2]) == (True, True)
    assert ("weather" in grammars[3], "time" in grammars[3]) == (False, True)


async def test_a_thought_may_come_before_a_structure(weather: HttpService) -> None:
    await whole(weather, tools=None, response_format={"type": "json_object"})
    await whole(weather, response_format={"type": "json_object"})
    first, second = (request.sampling.grammar for request in weather.generator.submitted)
    assert "<think>" in first
    assert "weather" not in first
    assert "weather" in second


async def test_the_last_message_can_be_continued(weather: HttpService) -> None:
    messages = [*USER_SAYS_HI, {"role": "assistant", "content": "Once upon"}]
    await whole(weather, messages=messages, add_generation_prompt=False, continue_final_message=True)
    assert prompt_of(weather.generator.submitted[0]).endswith("<|im_start|>assistant\nOnce upon")


def tool(**changes: object) -> dict[str, object]:
    return {"type": "function", "function": {**WEATHER["function"], **changes}}  # type: ignore[dict-item]


def called(arguments: str) -> list[dict[str, object]]:
    call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return [{"role": "assistant", "content": None, "tool_calls": [call]}]


def nested(depth: int) -> dict[str, Any]:
    return {"properties": {"a": nested(depth - 1)}} if depth else {}


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"tools": [tool(name="a b")]}, "tools[0]", "1 to 64 letters"),
        ({"tools": [tool(name="x" * 65)]}, "tools[0]", "1 to 64 letters"),
        ({"tools": [WEATHER, WEATHER]}, "tools", "names of their own"),
        ({"tools": [tool(name=f"f{index}") for index in range(129)]}, "tools", "128"),
        ({"tools": [tool(parameters={"type": "array"})]}, "tools[0]", "type object"),
        ({"tools": [tool(parameters={"description": "x" * 70_000})]}, "tools[0]", "65536 bytes"),
        ({"tools": [tool(parameters=nested(40))]}, "tools[0]", "64 levels"),
        (
            {"tools": [tool(parameters={"description": "\ud83d"})]},
            "tools[0].function.parameters.description",
            "surrogate",
        ),
        ({"tools": [tool(parameters={"\ud83d": 1})]}, r"tools[0].function.parameters.\ud83d", "surrogate"),
        ({"messages": called('{"a": "\\ud83d"}')}, "messages[0].tool_calls[0].function.arguments.a", "surrogate"),
        ({"messages": called('{"a": [1e999]}')}, "messages[0].tool_calls[0].function.arguments.a[0]", "Infinity"),
        ({"tools": [tool(parameters={"default": math.nan})]}, "tools[0].function.parameters.default", "NaN"),
        ({"chat_template_kwargs": {"a": "\ud83d"}}, "chat_template_kwargs.a", "surrogate"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type", "function"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice", "weather"),
        ({"tools": None, "tool_choice": "required"}, "tool_choice", "without tools"),
        ({"tool_choice": "maybe"}, "tool_choice", "required"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content", "tool_calls"),
        ({"messages": called("{")}, "messages[0].tool_calls[0].function.arguments", "object of JSON"),
        ({"messages": called("[]")}, "messages[0].tool_calls[0].function.arguments", "object of JSON"),
        ({"messages": called("[" * 5000)}, "messages[0].tool_calls[0].function.arguments", "object of JSON"),
        ({"messages": called('{"a":' * 70 + "1" + "}" * 70)}, "messages[0].tool_calls", "64 levels"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "other than"),
        ({"chat_template_kwargs": {"a": "x" * 20_000}}, "chat_template_kwargs", "16384 bytes"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "knows no reasoning effort"),
        ({"continue_final_message": True}, "continue_final_message", "add_generation_prompt"),
        ({"functions": [{"name": "f"}]}, "functions", "nothing else is supported"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(
    weather: HttpService, body: dict[str, Any], param: str, says: str
) -> None:
    raw = json.dumps({"messages": USER_SAYS_HI, "tools": [WEATHER], **body})  # which can name halves of characters
    response = await weather.http.post(CHAT, content=raw, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    error = error_of(response)
    assert error["param"] == param, error
    assert says in error["message"]
