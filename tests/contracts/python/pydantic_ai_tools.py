# /// script
# dependencies = ["pydantic-ai-slim[openai]==2.68.0"]
# ///
"""pydantic-ai: an agent whose answer is a model, by a tool and by a JSON schema."""

import os
from typing import Literal

import openai
from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Weather(BaseModel):
    """Tells the weather."""

    unit: Literal["celsius", "kelvin"]
    days: int = Field(ge=1, le=9)


url = os.environ["QLLM_URL"]
name = openai.OpenAI(base_url=url, api_key="none").models.list().data[0].id
model = OpenAIChatModel(name, provider=OpenAIProvider(base_url=url, api_key="none"))
for output in (ToolOutput(Weather), NativeOutput(Weather)):
    agent = Agent(model, output_type=output, model_settings={"max_tokens": 200, "seed": 1})
    assert isinstance(agent.run_sync("How is it?").output, Weather)
