"""Both APIs tell how much of a prompt was found in the cache; what an answer had to compute itself is not found."""

import pytest
from qllm.v1 import inference_pb2 as pb

from tests.support.service.api_service import collect, running
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import CHAT, COMPLETIONS, USER_SAYS_HI, http_app

MESSAGES: dict[str, dict[str, object]] = {COMPLETIONS: {"prompt": "hello"}, CHAT: {"messages": USER_SAYS_HI}}
WITH_USAGE = {"include_usage": True, "continuous_usage_stats": True}


def finding(*nums_cached_tokens: int) -> FakeGenerator:
    """Finds so many tokens for each further request."""
    found = iter(nums_cached_tokens)
    return FakeGenerator(cached=lambda _: next(found))


async def test_grpc_tells_it_in_the_last_message() -> None:
    async with running(finding(4)) as service:
        *_, last = await collect(service, pb.GenerateRequest(text="hello"))
    assert last.finish.usage.cached_tokens == 4


@pytest.mark.parametrize("path", MESSAGES)
async def test_http_tells_it_where_openai_does(path: str) -> None:
    async with http_app(finding(4)) as service:
        answer = await service.answer(path, **MESSAGES[path], max_tokens=2)
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}


@pytest.mark.parametrize("path", MESSAGES)
async def test_streams_that_tell_their_usage_tell_it_every_time(path: str) -> None:
    async with http_app(finding(4)) as service:
        chunks = await service.chunks(path, **MESSAGES[path], max_tokens=2, stream_options=WITH_USAGE)
    assert [chunk["usage"]["prompt_tokens_details"]["cached_tokens"] for chunk in chunks] == [4, 4, 4]


async def test_what_further_choices_find_of_the_first_one_is_no_saving_of_the_answer() -> None:
    async with http_app(finding(2, 5, 4, 3)) as service:
        answer = await service.answer(COMPLETIONS, prompt=["hello", "abc"], n=2, max_tokens=2)
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 2 + 3}
