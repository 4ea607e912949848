import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import pytest
import qllm.client as client_package
from qllm import (
    AsyncClient,
    Cancelled,
    ChatMessage,
    DeadlineExceeded,
    DuplicateRequest,
    FinishReason,
    InvalidRequest,
    Overloaded,
    Prompt,
    QllmError,
    RequestClass,
    ServerError,
    Unavailable,
)
from qllm.v1 import inference_pb2 as pb

from tests.unit.client.fake_service import FakeService


@pytest.fixture
async def client(service: FakeService) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(service.address) as client:
        yield client


async def cancellation(service: FakeService) -> None:
    await asyncio.wait_for(service.cancelled.acquire(), timeout=300)


def test_all_names_exist_and_are_sorted() -> None:
    assert all(hasattr(client_package, name) for name in client_package.__all__)
    assert client_package.__all__ == sorted(client_package.__all__, key=lambda name: (not name.isupper(), name))


async def test_stream_yields_every_delta_and_then_has_the_whole(client: AsyncClient) -> None:
    stream = client.generate("hi", max_tokens=4, request_id="mine")
    deltas = [delta async for delta in stream]
    assert [delta.text for delta in deltas] == ["0 ", "1 ", "2 ", "3 "]
    assert [delta.logprobs for delta in deltas] == [(-0.5,)] * 4
    result = stream.result
    assert (result.request_id, result.text, result.token_ids) == ("mine", "0 1 2 3 ", (0, 1, 2, 3))
    assert result.finish_reason is FinishReason.LENGTH
    assert result.stop_string is None
    assert result.usage.completion_tokens == 4
    assert result.usage.num_preemptions == 4
    assert result.usage.cached_tokens == 3
    assert 0 < result.ttft_s < result.e2e_s


async def test_result_is_refused_before_the_end(client: AsyncClient) -> None:
    stream = client.generate("hi", max_tokens=4)
    with pytest.raises(RuntimeError, match="not ended"):
        _ = stream.result
    await stream.collect()


async def test_stream_is_read_only_once(client: AsyncClient) -> None:
    stream = client.generate("hi", max_tokens=1)
    await stream.collect()
    with pytest.raises(RuntimeError, match="only once"):
        await stream.collect()


async def test_every_option_reaches_the_service(client: AsyncClient, service: FakeService) -> None:
    await client.generate(
        "hi",
        request_class=RequestClass.BEST_EFFORT,
        request_id="r",
        max_tokens=1,
        min_tokens=1,
        ignore_eos=True,
        stop=["a", "b"],
        stop_token_ids=[5, 6],
        temperature=0,
        top_k=3,
        top_p=0.5,
        min_p=0.25,
        seed=-9,
        ttft_ms=2000,
        tpot_ms=0,
        cache_salt="tenant-5",
        session_id="s",
        expects_tool_call="search",
        last_turn=True,
    ).collect()
    (request,) = service.requests
    assert (request.request_id, request.request_class, request.text) == ("r", 2, "hi")
    stop, sampling = request.stop, request.sampling
    assert (stop.max_tokens, stop.min_tokens, stop.ignore_eos) == (1, 1, True)
    assert (list(stop.stop_strings), list(stop.stop_token_ids)) == (["a", "b"], [5, 6])
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0, 3, 0.5, 0.25)
    assert sampling.seed == -9
    assert (request.targets.ttft_ms, request.targets.tpot_ms) == (2000, 0)
    assert request.targets.HasField("tpot_ms")
    assert request.cache_salt == "tenant-5"
    assert request.session == pb.SessionTurn(session_id="s", expects_tool_call="search", last_turn=True)


async def test_options_left_out_are_absent_on_the_wire(client: AsyncClient, service: FakeService) -> None:
    await client.generate("hi", max_tokens=1).collect()
    (request,) = service.requests
    assert request.request_class == 1
    assert not request.sampling.HasField("temperature")
    assert not request.stop.HasField("min_tokens")
    assert request.targets == pb.LatencyTargets()
    assert not request.HasField("session")


@pytest.mark.parametrize("prompt", [[3, 1, 4], (3, 1, 4), range(3, 5)])
async def test_token_ids_are_sent_as_they_are(client: AsyncClient, service: FakeService, prompt: Prompt) -> None:
    await client.generate(prompt, max_tokens=1).collect()
    assert list(service.requests[0].token_ids.ids) == list(prompt)


async def test_an_empty_list_is_an_empty_prompt_for_the_service_to_refuse(
    client: AsyncClient, service: FakeService
) -> None:
    await client.generate([], max_tokens=1).collect()
    assert service.requests[0].WhichOneof("prompt") == "token_ids"


async def test_conversations_may_be_messages_or_mappings(client: AsyncClient, service: FakeService) -> None:
    turns = [ChatMessage("system", "be brief"), {"role": "user", "content": "hi"}]
    await client.generate(turns, max_tokens=1).collect()
    sent = [(turn.role, turn.content) for turn in service.requests[0].chat.messages]
    assert sent == [("system", "be brief"), ("user", "hi")]


@pytest.mark.parametrize(
    "bad", [{"max_tokens": 2**40}, {"temperature": "hot"}, {"stop": ["\ud800"]}, {"stop_token_ids": [0.5]}]
)
async def test_values_that_no_wire_type_holds_are_invalid_before_they_are_sent(
    client: AsyncClient, service: FakeService, bad: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest):
        client.generate("hi", **bad)
    assert service.requests == []


async def test_leaving_the_loop_early_cancels_on_the_server(client: AsyncClient, service: FakeService) -> None:
    async for _ in client.generate("hi", max_tokens=10_000):
        break
    await cancellation(service)


async def test_closing_the_iterator_cancels_on_the_server(client: AsyncClient, service: FakeService) -> None:
    async with aclosing(aiter(client.generate("hi", max_tokens=10_000))) as deltas:
        await anext(deltas)
    await cancellation(service)


async def test_leaving_the_block_cancels_on_the_server(client: AsyncClient, service: FakeService) -> None:
    async with client.generate("hi", max_tokens=10_000):
        await service.received.wait()
    await cancellation(service)


async def test_cancelling_the_reading_task_cancels_on_the_server(client: AsyncClient, service: FakeService) -> None:
    reading = asyncio.create_task(client.generate("hi", max_tokens=10_000).collect())
    await service.received.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await cancellation(service)


async def test_cancel_cancels_on_the_server_and_ends_the_reading_with_its_own_error(
    client: AsyncClient, service: FakeService
) -> None:
    stream = client.generate("hi", max_tokens=10_000)
    reading = asyncio.create_task(stream.collect())
    await service.received.wait()
    stream.cancel()
    with pytest.raises(Cancelled):
        await reading
    await cancellation(service)


async def test_cancel_after_the_end_keeps_the_result(client: AsyncClient) -> None:
    stream = client.generate("hi", max_tokens=1)
    await stream.collect()
    stream.cancel()
    assert stream.result.text == "0 "


async def test_timeout_ends_the_call_on_both_sides(client: AsyncClient, service: FakeService) -> None:
    service.step_s = 0.05
    with pytest.raises(DeadlineExceeded):
        await client.generate("hi", max_tokens=1_000, timeout_s=0.2).collect()
    await cancellation(service)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_ARGUMENT", InvalidRequest),
        ("ALREADY_EXISTS", DuplicateRequest),
        ("RESOURCE_EXHAUSTED", Overloaded),
        ("UNAVAILABLE", Unavailable),
        ("DEADLINE_EXCEEDED", DeadlineExceeded),
        ("CANCELLED", Cancelled),
        ("INTERNAL", ServerError),
        ("DATA_LOSS", ServerError),
    ],
)
async def test_each_status_is_its_error_with_the_service_s_message(
    client: AsyncClient, code: str, kind: type[QllmError]
) -> None:
    with pytest.raises(kind, match="because it was asked to") as caught:
        await client.generate(f"fail {code}").collect()
    assert caught.value.status is getattr(grpc.StatusCode, code)


@pytest.mark.parametrize(("prompt", "retry_after_s"), [("overload", 0.25), ("pushback", 0.9)])
async def test_overload_carries_the_time_to_wait(client: AsyncClient, prompt: Prompt, retry_after_s: float) -> None:
    with pytest.raises(Overloaded, match="full") as caught:
        await client.generate(prompt).collect()
    assert caught.value.retry_after_s == retry_after_s


async def test_a_stream_that_ends_without_a_reason_is_an_error(client: AsyncClient) -> None:
    with pytest.raises(ServerError, match="without saying why"):
        await client.generate("hi", max_tokens=0).collect()


async def test_no_service_is_unavailable() -> None:
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(Unavailable, match="connect"):
            await client.health()


async def test_generate_all_keeps_the_order_and_the_limit(client: AsyncClient, service: FakeService) -> None:
    service.step_s = 0.02  # those that may run at a time meet
    results = await client.generate_all([[n] for n in range(12)], max_concurrency=3, max_tokens=2)
    assert [result.token_ids for result in results] == [(n, n + 1) for n in range(12)]
    assert service.max_live == 3


async def test_generate_all_cancels_the_rest_when_one_fails(client: AsyncClient, service: FakeService) -> None:
    with pytest.raises(ServerError):
        await client.generate_all(["hi", "fail INTERNAL", "hi"], max_tokens=10_000)
    for _ in range(30_000):  # not for each: one that was cancelled on its way may never have arrived
        if not service.num_live:
            break
        await asyncio.sleep(0.01)
    assert service.num_live == 0


async def test_administration_calls(client: AsyncClient, service: FakeService) -> None:
    assert await client.health() is True
    await service.set_serving(False)
    assert await client.health() is False
    assert (await client.server_info()).model.num_layers == 3
    assert (await client.loads()).num_preemptions_at_expert == 7
    assert await client.abort("live") is True
    assert await client.abort("over") is False
    assert (await client.drain()).num_requests == 1
    assert (await client.drain(1.5)).grace_ms == 1500
    assert service.graces_ms == [None, 1500]
    with pytest.raises(InvalidRequest, match="grace_s: got -1, allowed is 0 to 3600"):
        await client.drain(-1)
    assert service.aborted_ids == ["live", "over"]
