# /// script
# dependencies = ["openai==3.57.0"]
# ///
"""The openai SDK: tools, streamed tools, parsed tools and parsed answers."""

import json
import os
from typing import Literal

import openai
from pydantic import BaseModel, Field


class Weather(BaseModel):
    """Tells the weather."""

    unit: Literal["celsius", "kelvin"]
    days: int = Field(ge=1, le=9)


client = openai.OpenAI(base_url=os.environ["QLLM_URL"], api_key="none", max_retries=0)
ask = {
    "model": client.models.list().data[0].id,
    "messages": [{"role": "user", "content": "How is it?"}],
    "tools": [openai.pydantic_function_tool(Weather)],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "max_tokens": 200,
    "seed": 1,
}

whole = client.chat.completions.create(**ask).choices[0]
[call] = whole.message.tool_calls
Weather.model_validate_json(call.function.arguments)
assert whole.finish_reason == "tool_calls"

arguments, names = "", []
for chunk in client.chat.completions.create(**ask, stream=True):
    for part in chunk.choices[0].delta.tool_calls or ():
        arguments += part.function.arguments or ""
        names += [part.function.name] if part.function.name else []
assert (names, arguments) == (["Weather"], call.function.arguments)

with client.chat.completions.stream(**ask) as events:
    done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    final = events.get_final_completion().choices[0]
assert json.loads(done[0].arguments) == json.loads(call.function.arguments)
assert isinstance(final.message.tool_calls[0].function.parsed_arguments, Weather)

parsed = client.chat.completions.parse(**ask).choices[0].message.tool_calls[0].function.parsed_arguments
assert isinstance(parsed, Weather)

answer = client.chat.completions.parse(
    model=ask["model"], messages=ask["messages"], response_format=Weather, max_tokens=200, seed=1
)
assert isinstance(answer.choices[0].message.parsed, Weather)

history = [
    *ask["messages"],
    whole.message,
    {"role": "tool", "tool_call_id": call.id, "content": "rain"},
]
after = client.chat.completions.create(**{**ask, "messages": history, "tool_choice": "auto", "max_tokens": 8})
assert after.choices[0].message.content
