# /// script
# dependencies = ["litellm==1.80.0", "openai==1.109.1"]
# ///
"""litellm: tools, streamed tools and JSON schemas, through its OpenAI-compatible providers."""

import json
import os

import litellm
import openai

url = os.environ["QLLM_URL"]
name = openai.OpenAI(base_url=url, api_key="none").models.list().data[0].id
SCHEMA = {
    "type": "object",
    "properties": {"unit": {"type": "string", "enum": ["celsius", "kelvin"]}},
    "required": ["unit"],
    "additionalProperties": False,
}
for provider in ("openai", "hosted_vllm"):
    ask = {
        "model": f"{provider}/{name}",
        "api_base": url,
        "api_key": "none",
        "num_retries": 0,
        "messages": [{"role": "user", "content": "How is it?"}],
        "max_tokens": 200,
        "seed": 1,
    }
    tools = {
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }
    [call] = litellm.completion(**ask, **tools).choices[0].message.tool_calls
    assert json.loads(call.function.arguments)["unit"] in ("celsius", "kelvin")
    chunks = list(litellm.completion(**ask, **tools, stream=True))
    [again] = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls
    assert again.function.arguments == call.function.arguments
    form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA, "strict": True}}
    said = litellm.completion(**ask, response_format=form).choices[0].message.content
    assert json.loads(said)["unit"] in ("celsius", "kelvin")
