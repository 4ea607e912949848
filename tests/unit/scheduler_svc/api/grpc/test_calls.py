"""A call costs something only once its request has come, and the request nothing once its answer is being made."""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from qllm.v1 import inference_pb2 as pb
from qllm.v1 import inference_pb2_grpc

from scheduler_svc.api.grpc import malformed
from scheduler_svc.api.grpc.calls import RequestPatience, RequestTooSlow
from scheduler_svc.api.grpc.errors import ErrorInterceptor
from scheduler_svc.api.grpc.health import HealthServicer
from tests.support.service.api_service import running
from tests.support.service.fakes import FakeGenerator

CHECK = "/grpc.health.v1.Health/Check"


@asynccontextmanager
async def health(patience: RequestPatience) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=[ErrorInterceptor(patience=patience)])
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(FakeGenerator(), ()), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(grace=None)


def silent_call(channel: grpc.aio.Channel) -> "grpc.aio.StreamUnaryCall[bytes, bytes]":
    """A call whose request does not come."""
    return channel.stream_unary(CHECK)(timeout=60)


async def test_a_call_whose_request_does_not_come_is_ended() -> None:
    async with health(RequestPatience(first_s=0.05)) as channel:
        call = silent_call(channel)
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await call.details() == "request: nothing came for 0.05 s"


async def test_of_too_many_silent_calls_the_oldest_gives_way_and_who_asks_is_answered() -> None:
    async with health(RequestPatience(most_waiting=2)) as channel:
        calls = []
        for _ in range(4):
            calls.append(silent_call(channel))
            await asyncio.sleep(0.05)  # so that they come in this order
        for call in calls[:2]:
            assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await call.details() == "request: nothing came yet, and 2 calls that came later wait for theirs"
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert not calls[3].done()
        calls[2].cancel()
        calls[3].cancel()


async def test_a_call_that_ends_without_its_request_is_told_what_is_missing() -> None:
    async with health(RequestPatience()) as channel:
        call = silent_call(channel)
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await call.details() == "request: got nothing, allowed is one message"


async def test_a_stream_of_requests_that_stalls_is_ended() -> None:
    messages = ["first", "second"]

    class Stalling:
        async def read(self) -> object:
            return messages.pop(0) if messages else await asyncio.Event().wait()

    requests = RequestPatience(next_s=0.05).each(Stalling())  # type: ignore[arg-type]
    assert [await anext(requests), await anext(requests)] == ["first", "second"]
    with pytest.raises(RequestTooSlow, match=r"nothing came for 0\.05 s"):
        await anext(requests)


async def test_a_request_is_not_kept_while_its_answer_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, requests = FakeGenerator(hold_after=1), []

    def decode_and_keep(message_type: type[Message], raw: bytes) -> object:
        requests.append(malformed.decode(message_type, raw))
        return requests[-1]

    monkeypatch.setattr("scheduler_svc.api.grpc.errors.decode", decode_and_keep)
    async with running(generator) as service:
        call = inference_pb2_grpc.InferenceServiceStub(service.channel).Generate(pb.GenerateRequest(text="hello"))
        await call.read()
        gc.collect()
        [theirs] = requests
        own = object()
        kept_here = [own]
        assert sys.getrefcount(theirs) == sys.getrefcount(own)
        assert kept_here
        call.cancel()
