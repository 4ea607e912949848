import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest
from qllm import Client, Overloaded, RequestClass

from tests.unit.client.fake_service import FakeService

T = TypeVar("T")


async def blocking(function: Callable[..., T], *arguments: object) -> T:
    """Runs the synchronous client beside the test's server, which needs this thread's loop."""
    return await asyncio.wait_for(asyncio.to_thread(function, *arguments), timeout=300)


async def cancellation(service: FakeService) -> None:
    await asyncio.wait_for(service.cancelled.acquire(), timeout=300)


async def test_streams_like_the_async_client(service: FakeService) -> None:
    def use() -> None:
        with Client(service.address) as client:
            stream = client.generate([1, 2], max_tokens=3, request_class=RequestClass.BEST_EFFORT, request_id="r")
            return [delta.text for delta in stream], stream.result, stream.request_id

    texts, result, request_id = await blocking(use)
    assert texts == ["0 ", "1 ", "2 "]
    assert result.token_ids == (3, 4, 5)
    assert request_id == result.request_id == "r"
    assert service.requests[0].request_class == 2


async def test_other_calls_return_what_the_async_client_returns(service: FakeService) -> None:
    def use() -> None:
        with Client(service.address) as client:
            assert client.health() is True
            assert client.server_info().policy == "qllm"
            assert client.loads().num_preemptions_at_expert == 7
            assert client.abort("live") is True
            assert client.drain().grace_ms == 2000
            assert client.generate("hi", max_tokens=2).collect().text == "0 1 "
            return client.generate_all(["a", "b"], max_tokens=2)

    assert [result.text for result in await blocking(use)] == ["0 1 ", "0 1 "]


async def test_errors_cross_the_thread(service: FakeService) -> None:
    def use() -> None:
        with Client(service.address) as client, pytest.raises(Overloaded, match="full"):
            client.generate("overload").collect()

    await blocking(use)


async def test_leaving_the_loop_early_cancels_on_the_server(service: FakeService) -> None:
    def use(go_on: threading.Event) -> None:
        with Client(service.address) as client:
            for _ in client.generate("hi", max_tokens=10_000):
                break
            go_on.wait(300)

    go_on = threading.Event()
    using = asyncio.create_task(blocking(use, go_on))
    await cancellation(service)
    go_on.set()
    await using


async def test_close_cancels_streams_on_the_server_and_may_be_called_twice(service: FakeService) -> None:
    def use() -> None:
        client = Client(service.address)
        stream = client.generate("hi", max_tokens=10_000)
        next(iter(stream))
        client.close()
        client.close()

    await blocking(use)
    await cancellation(service)


async def test_several_threads_may_share_a_client(service: FakeService) -> None:
    with_client = await blocking(Client, service.address)
    texts = await asyncio.gather(
        *(blocking(lambda: with_client.generate("hi", max_tokens=20).collect().text) for _ in range(4))
    )
    await blocking(with_client.close)
    assert len(set(texts)) == 1
