"""Several choices from Python and from the command: how they are asked for, and where each is found."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from qllm import AsyncClient, Client, FinishReason

from tests.unit.client.fake_service import FakeService
from tests.unit.client.in_process import run_here


@pytest.fixture
async def client(service: FakeService) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(service.address) as client:
        yield client


async def test_each_delta_names_its_choice_and_the_result_has_all(client: AsyncClient, service: FakeService) -> None:
    stream = client.generate("hi", num_choices=3, best_of=4, max_tokens=2, show_special_tokens=True)
    deltas = [delta async for delta in stream]
    assert [delta.choice_index for delta in deltas] == [0, 1, 2, 0, 1, 2]
    first, second, third = stream.result.choices
    assert first is stream.result
    assert [choice.token_ids for choice in (first, second, third)] == [(0, 1), (100, 101), (200, 201)]
    assert {choice.text for choice in (first, second, third)} == {"0 1 "}
    assert {choice.finish_reason for choice in (first, second, third)} == {FinishReason.LENGTH}
    assert all(choice.ttft_s is not None and choice.ttft_s <= choice.e2e_s for choice in (first, second, third))
    (request,) = service.requests
    assert (request.num_choices, request.best_of, request.show_special_tokens) == (3, 4, True)


async def test_the_result_is_there_once_the_last_choice_has_ended(client: AsyncClient) -> None:
    stream = client.generate("hi", num_choices=2, max_tokens=1)
    async for delta in stream:
        if delta.choice_index == 0:
            with pytest.raises(RuntimeError, match="has not ended"):
                _ = stream.result
    assert len(stream.result.choices) == 2


async def test_one_choice_is_the_result_alone(client: AsyncClient, service: FakeService) -> None:
    result = await client.generate("hi", max_tokens=2).collect()
    assert result.choices == (result,)
    assert not service.requests[0].HasField("num_choices")


async def test_leaving_before_the_last_choice_has_ended_cancels_the_others(
    client: AsyncClient, service: FakeService
) -> None:
    async with client.generate("hi", num_choices=2, max_tokens=10_000) as stream:
        async for _ in stream:
            break
    await service.cancelled.acquire()


async def test_the_blocking_client_has_the_same_choices(service: FakeService) -> None:
    def ask() -> list[tuple[int, ...]]:
        with Client(service.address) as blocking:
            result = blocking.generate("hi", num_choices=2, max_tokens=2).collect()
            return [choice.token_ids for choice in result.choices]

    assert await asyncio.to_thread(ask) == [(0, 1), (100, 101)]


async def test_the_command_prints_each_choice_below_its_number(service: FakeService) -> None:
    finished = await run_here("generate", "--address", service.address, "--n", "2", "--max-tokens", "2", "hi")
    assert finished.out.splitlines() == ["[0]", "0 1 ", "[1]", "0 1 "]


async def test_the_command_tells_all_choices_as_json(service: FakeService) -> None:
    asked = ("generate", "--address", service.address, "--max-tokens", "2", "--json", "hi")
    several = json.loads((await run_here(*asked, "--n", "2", "--best-of", "3", "--show-special-tokens")).out)
    one = json.loads((await run_here(*asked)).out)
    assert [choice["token_ids"] for choice in several["choices"]] == [[0, 1], [100, 101]]
    assert several["token_ids"] == [0, 1]
    assert "choices" not in one
    first, second = service.requests
    assert (first.num_choices, first.best_of, first.show_special_tokens) == (2, 3, True)
    assert not second.HasField("best_of")
