"""Bodies hold what JSON can hold, whatever their path and wherever in them, and numbers where numbers are asked for."""

import json
import math

import pytest
from fastapi.routing import APIRoute
from pydantic import BaseModel

from scheduler_svc.api.backend import Backend
from scheduler_svc.api.openai.app import make_app
from scheduler_svc.api.openai.responses.schema import ResponsesRequest
from scheduler_svc.api.openai.wire.schemas import ChatCompletionRequest, CompletionRequest
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.errors import Refusal
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import CHAT, COMPLETIONS, RESPONSES, USER_SAYS_HI, error_of, http_app

HALF = "\ud83d"
# Each where a schema takes anything, or nothing looks at all.
HOLDING = {
    "a number": ({"store": math.nan}, "store", "NaN"),
    "a number too large": ({"user": [-math.inf]}, "user[0]", "-Infinity"),
    "a text": ({"model": HALF}, "model", "surrogate"),
    "a name": ({"metadata": {HALF: ""}}, r"metadata.\ud83d", "surrogate"),
    "a field": ({HALF: 1}, r"\ud83d", "surrogate"),
}


def paths_with_bodies() -> list[str]:
    generator = FakeGenerator()
    texts = TextGenerator(generator)
    routes = make_app(Backend(generator, texts, None), 1).routes
    texts.close()
    return [one.path for one in routes if isinstance(one, APIRoute) and one.body_field is not None]


@pytest.mark.parametrize("holding", HOLDING)
@pytest.mark.parametrize("path", paths_with_bodies())
async def test_a_body_that_could_not_be_written_again_is_refused_by_the_place(path: str, holding: str) -> None:
    body, param, words = HOLDING[holding]
    generator = FakeGenerator()
    async with http_app(generator) as service:
        raw = json.dumps(body)
        response = await service.http.post(path, content=raw, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    error = error_of(response)
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert words in error["message"]
    assert [refusal for _, refusal in generator.refused] == [Refusal.INVALID]


def test_the_paths_are_there() -> None:
    paths = paths_with_bodies()
    assert {CHAT, RESPONSES, COMPLETIONS, "/tokenize", "/detokenize", "/v1/batches"} <= {*paths}


async def test_pairs_of_halves_and_words_that_look_like_numbers_are_texts() -> None:
    content = "🦙 NaN Infinity 1e999 " + "9" * 300 + r" \ud83d"
    raw = json.dumps({"messages": [{"role": "user", "content": content}], "max_tokens": 1})
    async with http_app(FakeGenerator()) as service:
        response = await service.http.post(CHAT, content=raw, headers={"content-type": "application/json"})
        assert response.status_code == 200, response.text
        await service.answer(CHAT, messages=USER_SAYS_HI, max_tokens=1)


def numbers_of(body: type[BaseModel]) -> list[str]:
    """Returns the fields that take a number, alone or among others."""
    properties = body.model_json_schema()["properties"]
    kinds = {name: [field, *field.get("anyOf", ())] for name, field in properties.items()}
    return [name for name, each in kinds.items() if any(one.get("type") in ("integer", "number") for one in each)]


NUMBERS = [
    *((COMPLETIONS, name) for name in numbers_of(CompletionRequest)),
    *((CHAT, name) for name in numbers_of(ChatCompletionRequest)),
    *((RESPONSES, name) for name in [*numbers_of(ResponsesRequest), "n"]),
]


@pytest.mark.parametrize(("path", "name"), NUMBERS)
async def test_true_is_no_number(path: str, name: str) -> None:
    good = {"prompt": "x"} if path == COMPLETIONS else {"messages": USER_SAYS_HI} if path == CHAT else {"input": "x"}
    async with http_app(FakeGenerator()) as service:
        response = await service.post(path, **{**good, name: True})
    assert response.status_code == 400, response.text
    assert error_of(response)["param"] == name


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"routed_experts_prompt_start": False}, "routed_experts_prompt_start"),
        ({"return_prompt_text": 0}, "return_prompt_text"),
        ({"stop_token_ids": [True]}, "stop_token_ids[0]"),
        ({"logit_bias": {"5": True}}, "logit_bias.5"),
        ({"prompt": [5, True]}, "prompt[1]"),
    ],
)
async def test_truth_values_and_numbers_do_not_stand_for_each_other(body: dict[str, object], param: str) -> None:
    async with http_app(FakeGenerator()) as service:
        response = await service.post(COMPLETIONS, **{"prompt": "x", **body})
    assert response.status_code == 400, response.text
    assert error_of(response)["param"] == param
