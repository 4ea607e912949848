"""Calls of functions by a real model, over HTTP and the OpenAI SDK."""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from tests.support.models.tool_checkpoint import write_tool_checkpoint
from tests.support.service.live_service import LiveService, free_port, start_service

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["unit", "days"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "time"}}
HI: list[dict[str, Any]] = [{"role": "user", "content": "How is it?"}]


class Service:
    """A live service, and the SDK's client to it."""

    def __init__(self, live: LiveService, port: int) -> None:
        self.live = live
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=300)

    def ask(self, **more: Any) -> Any:
        body = {"model": "tool-model", "messages": HI, "tools": [WEATHER, TIME], "max_tokens": 200, **more}
        return self.client.chat.completions.create(**body)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory, port = tmp_path_factory.mktemp("tools"), free_port()
    with start_service(write_tool_checkpoint(directory), directory / "log", "--http-port", str(port)) as live:
        yield Service(live, port)


def is_weather(call: Any) -> bool:
    arguments = json.loads(call.function.arguments)
    return arguments["unit"] in ("celsius", "kelvin") and 1 <= arguments["days"] <= 9 and len(arguments) == 2


@pytest.mark.parametrize(
    "how", [{"temperature": 0}, {"temperature": 2, "seed": 1}, {"service_tier": "flex", "seed": 2}]
)
def test_a_named_function_is_called(service: Service, how: dict[str, Any]) -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    [choice] = service.ask(tool_choice=named, **how).choices
    [call] = choice.message.tool_calls
    assert call.function.name == "weather"
    assert is_weather(call)
    assert choice.message.content is None
    assert choice.finish_reason == "tool_calls"


def test_a_stream_adds_up_to_the_whole_answer(service: Service) -> None:
    body: dict[str, Any] = {"tool_choice": "required", "seed": 5, "parallel_tool_calls": False}
    [whole] = service.ask(**body).choices
    stream = service.client.chat.completions.stream(
        model="tool-model",
        messages=HI,
        tools=[WEATHER, TIME],
        max_tokens=200,
        **body,  # type: ignore[list-item, arg-type]
    )
    with stream as events:
        events.until_done()
        [streamed] = events.get_final_completion().choices
    assert streamed.finish_reason == whole.finish_reason == "tool_calls"
    assert [call.function.name for call in streamed.message.tool_calls or ()] == [
        call.function.name for call in whole.message.tool_calls
    ]
    assert [call.function.arguments for call in streamed.message.tool_calls or ()] == [
        call.function.arguments for call in whole.message.tool_calls
    ]


def test_the_sdk_parses_arguments_of_a_model(service: Service) -> None:
    class Weather(BaseModel):
        unit: Literal["celsius", "kelvin"]
        days: int = Field(ge=1, le=9)

    [choice] = service.client.chat.completions.parse(
        model="tool-model",
        messages=HI,  # type: ignore[arg-type]
        tools=[openai.pydantic_function_tool(Weather)],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=200,
    ).choices
    [call] = choice.message.tool_calls or ()
    assert isinstance(call.function.parsed_arguments, Weather)


def test_a_conversation_goes_on_behind_a_call(service: Service) -> None:
    message = service.ask(tool_choice={"type": "function", "function": {"name": "time"}}, seed=1).choices[0].message
    [call] = message.tool_calls
    messages = [*HI, message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "noon"}]
    [choice] = service.ask(messages=messages, tool_choice="none", max_tokens=5, seed=1).choices
    assert choice.message.content
    assert choice.message.tool_calls is None


def test_a_worker_that_is_killed_changes_no_call(service: Service) -> None:
    body: dict[str, Any] = {"tool_choice": "required", "temperature": 1.5, "seed": 11, "parallel_tool_calls": False}
    [expected] = service.ask(**body).choices[0].message.tool_calls
    calls: list[Any] = []
    for number, chunk in enumerate(service.ask(stream=True, **body)):
        if number == 3:
            os.kill(service.live.worker_pid(), signal.SIGKILL)
        calls += chunk.choices[0].delta.tool_calls or ()
    [found] = calls
    assert (found.function.name, found.function.arguments) == (expected.function.name, expected.function.arguments)


def test_a_call_that_is_cut_off_is_text(service: Service) -> None:
    [choice] = service.ask(tool_choice="required", max_tokens=12, temperature=0).choices
    assert choice.finish_reason == "length"
    assert choice.message.tool_calls is None
    assert choice.message.content.startswith("<tool_call>")


def test_a_function_is_called_in_a_response_and_the_next_one_goes_on_behind_it(service: Service) -> None:
    tool: Any = {"type": "function", "strict": True, **WEATHER["function"]}
    asked: dict[str, Any] = {"model": "tool-model", "tools": [tool], "max_output_tokens": 200}
    named = {"type": "function", "name": "weather"}
    with service.client.responses.stream(input="How is it?", tool_choice=named, **asked) as stream:
        written = "".join(event.delta for event in stream if event.type == "response.function_call_arguments.delta")
        response: Any = stream.get_final_response()
    [call] = response.output
    assert call.arguments == written
    arguments = json.loads(written)
    assert arguments["unit"] in ("celsius", "kelvin")
    assert 1 <= arguments["days"] <= 9
    items = [*response.output, {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]
    asked |= {"input": [*HI, *items], "tool_choice": "none", "max_output_tokens": 5}
    assert service.client.responses.create(**asked).output_text
