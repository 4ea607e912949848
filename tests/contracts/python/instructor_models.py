# /// script
# dependencies = ["instructor==1.17.0", "openai==3.3.0"]
# ///
"""Instructor: an answer as a model, by a tool and by a JSON schema."""

import os
from typing import Literal

import instructor
import openai
from pydantic import BaseModel, Field


class Weather(BaseModel):
    """Tells the weather."""

    unit: Literal["celsius", "kelvin"]
    days: int = Field(ge=1, le=9)


plain = openai.OpenAI(base_url=os.environ["QLLM_URL"], api_key="none", max_retries=0)
model = plain.models.list().data[0].id
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    found = instructor.from_openai(plain, mode=mode).chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "How is it?"}],
        response_model=Weather,
        max_retries=0,
        max_tokens=200,
        seed=1,
    )
    assert isinstance(found, Weather), mode
