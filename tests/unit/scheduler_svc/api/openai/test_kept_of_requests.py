"""What a request brought is not kept while its answer waits for its turn: only its tokens are."""

import asyncio
import gc

import pytest

from scheduler_svc.api.draft import ChatPrompt, TextPrompt, TokenPrompt
from scheduler_svc.api.openai.responses.schema import ResponsesRequest
from scheduler_svc.api.openai.wire.schemas import ChatCompletionRequest, CompletionRequest
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import CHAT, COMPLETIONS, RESPONSES, USER_SAYS_HI, running_http

BROUGHT = (ChatPrompt, TextPrompt, TokenPrompt, ChatCompletionRequest, CompletionRequest, ResponsesRequest)


def kept() -> list[object]:
    gc.collect()
    return [one for one in gc.get_objects() if type(one) in BROUGHT]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("path", "prompt"),
    [
        (COMPLETIONS, {"prompt": [5, 6, 7], "max_tokens": 5}),
        (COMPLETIONS, {"prompt": "hello", "max_tokens": 5}),
        (CHAT, {"messages": USER_SAYS_HI, "max_tokens": 5}),
        (RESPONSES, {"input": "hello", "max_output_tokens": 5}),
    ],
)
async def test_a_request_over_http_is_not_kept_while_its_answer_is_made(
    path: str, prompt: dict[str, object], stream: bool
) -> None:
    generator, before = FakeGenerator(hold_after=1), kept()  # what tests that failed left
    async with running_http(generator) as service:
        asking = asyncio.create_task(service.post(path, **prompt, stream=stream))
        async with asyncio.timeout(60):
            while not generator.live:  # noqa: ASYNC110  (the fake has no event for it)
                await asyncio.sleep(0.005)
        assert [one for one in kept() if not any(one is other for other in before)] == []
        for request_id in list(generator.live):
            generator.abort(request_id)
        assert (await asking).status_code == 200
