"""A response as a stream: typed events in OpenAI's order, numbered, of which the last says how it ended."""

import asyncio
import json
from typing import Any

import pytest

from scheduler_svc.errors import BatchFailed, InvalidRequest
from scheduler_svc.text.tokenizer import Tokenizer
from tests.support.models.sample_tokenizers import EOS_ID, byte_level_tokenizer
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import RESPONSES, HttpService, http_app, running_http, said_in

TOKENIZER = Tokenizer(byte_level_tokenizer().to_str().encode())
MESSAGE_BEGINS = ["response.output_item.added", "response.content_part.added"]
MESSAGE_ENDS = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]


def saying(text: str) -> FakeGenerator:
    return FakeGenerator(script=lambda _: [*TOKENIZER.encode(text, add_special_tokens=False), EOS_ID])


async def events_of(service: HttpService, **body: object) -> list[dict[str, Any]]:
    """The events of a stream, each of which is called in its head what its data say."""
    response = await service.post(RESPONSES, stream=True, **body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *parts, rest = response.text.split("\n\n")
    assert rest == ""
    events = []
    for part in parts:
        head, data = part.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert head == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


async def test_events_come_in_order_and_say_together_what_the_whole_says() -> None:
    async with http_app(saying("hello 日本")) as service:
        options = {"input": "hi", "include": ["message.output_text.logprobs"], "top_logprobs": 1}
        events = await events_of(service, **options)
        whole = await service.answer(RESPONSES, **options)
    kinds = [event["type"] for event in events]
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        *MESSAGE_BEGINS,
        *["response.output_text.delta"] * len(deltas),
        *MESSAGE_ENDS,
        "response.completed",
    ]
    assert len(deltas) > 1
    assert "".join(event["delta"] for event in deltas) == "hello 日本"
    [said] = whole["output"]
    [part] = said["content"]
    assert [one for event in deltas for one in event["logprobs"]] == part["logprobs"] != []
    first, last = events[0]["response"], events[-1]["response"]
    assert (first["status"], first["output"], first["usage"]) == ("in_progress", [], None)
    assert {event["item_id"] for event in deltas} == {last["output"][0]["id"]}
    assert said_in(last) == said_in(whole)
    done = [event for event in events if event["type"] == "response.output_item.done"]
    assert [event["item"] for event in done] == last["output"]


async def test_a_stream_that_is_cut_off_ends_as_incomplete() -> None:
    async with http_app(FakeGenerator()) as service:
        events = await events_of(service, input="hi", max_output_tokens=2)
    last = events[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["response"]["output"][0]["status"] == "incomplete"
    assert last["response"]["usage"]["output_tokens"] == 2


async def test_an_answer_without_a_word_is_an_empty_message() -> None:
    async with http_app(saying("")) as service:
        events = await events_of(service, input="hi")
    kinds = [event["type"] for event in events[2:]]
    assert kinds == [*MESSAGE_BEGINS, *MESSAGE_ENDS, "response.completed"]
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == ""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (BatchFailed("the worker is gone"), "server_error", "the worker is gone"),
        (InvalidRequest("num_top_logprobs", 1, "none"), "invalid_prompt", "top_logprobs: got 1"),
        (RuntimeError("secret"), "server_error", "internal error"),
    ],
)
async def test_a_stream_that_fails_says_so_and_shows_what_there_was(error: Exception, code: str, words: str) -> None:
    generator = saying("hello you")
    generator.fail_with, generator.fail_after = error, 2
    async with http_app(generator) as service:
        events = await events_of(service, input="hi")
    last = events[-1]
    assert last["type"] == "response.failed"
    response = last["response"]
    assert (response["status"], response["error"]["code"]) == ("failed", code)
    assert words in response["error"]["message"]
    assert "secret" not in json.dumps(events)
    assert response["output"][0]["status"] == "incomplete"
    said = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert response["output"][0]["content"][0]["text"] == said != ""


async def test_what_can_not_be_begun_is_refused_with_a_status() -> None:
    generator = FakeGenerator(refuse_with=BatchFailed("no"))
    async with http_app(generator) as service:
        response = await service.post(RESPONSES, input="hi", stream=True)
    assert response.status_code == 500


async def test_who_leaves_before_the_first_token_leaves_nothing_behind() -> None:
    generator = FakeGenerator(hold_after=0)
    async with running_http(generator) as service:
        async with service.http.stream("POST", RESPONSES, json={"input": "hi", "stream": True}) as response:
            assert "response.created" in await anext(response.aiter_text())
            assert generator.live
        async with asyncio.timeout(60):
            while generator.live:  # noqa: ASYNC110  (the fake has no event for it)
                await asyncio.sleep(0.005)


async def test_a_response_that_somebody_ends_is_cancelled() -> None:
    generator = FakeGenerator(hold_after=1)
    async with http_app(generator) as service:
        asking = asyncio.create_task(events_of(service, input="hi"))
        async with asyncio.timeout(60):
            while not generator.live:  # noqa: ASYNC110  (the fake has no event for it)
                await asyncio.sleep(0.005)
        [response_id] = generator.live
        assert generator.abort(response_id)
        last = (await asking)[-1]
    assert (last["type"], last["response"]["id"]) == ("response.incomplete", response_id)
    assert (last["response"]["status"], last["response"]["incomplete_details"]) == ("cancelled", None)
    assert last["response"]["output"][0]["status"] == "incomplete"
