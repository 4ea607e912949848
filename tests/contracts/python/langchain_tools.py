# /// script
# dependencies = ["langchain==1.5.2", "langchain-openai==1.1.9", "openai==1.109.1"]
# ///
"""LangChain: bound tools, streamed ones, a conversation with their results, and answers as models in three ways."""

import os
from typing import Literal

import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field


class Weather(BaseModel):
    """Tells the weather."""

    unit: Literal["celsius", "kelvin"]
    days: int = Field(ge=1, le=9)


@tool(args_schema=Weather)
def weather(unit: str, days: int) -> str:
    """Tells the weather."""
    return f"rain for {days} days, in {unit}"


url = os.environ["QLLM_URL"]
name = openai.OpenAI(base_url=url, api_key="none").models.list().data[0].id
model = ChatOpenAI(base_url=url, api_key="none", model=name, max_tokens=200, seed=1, max_retries=0)
question = HumanMessage("How is it?")

for choice in ("any", "weather"):
    said = model.bind_tools([weather], tool_choice=choice, parallel_tool_calls=False).invoke([question])
    [call] = said.tool_calls
    assert call["name"] == "weather"
    Weather.model_validate(call["args"])

streamed = None
for chunk in model.bind_tools([weather], tool_choice="any", parallel_tool_calls=False).stream([question]):
    streamed = chunk if streamed is None else streamed + chunk
assert streamed.tool_calls[0]["args"] == call["args"]

result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
assert model.bind_tools([weather], tool_choice="none").invoke([question, said, result], max_tokens=8).content

for method in ("function_calling", "json_schema"):
    assert isinstance(model.with_structured_output(Weather, method=method).invoke([question]), Weather), method
assert isinstance(model.with_structured_output(Weather, method="json_schema", strict=True).invoke([question]), Weather)
