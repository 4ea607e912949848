"""gRPC connections: bounded in number, closed where nobody speaks HTTP/2 or asks anything, never cut in a stream."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import grpc
import pytest
from qllm.v1 import batches_pb2_grpc, inference_pb2_grpc

from scheduler_svc.api.grpc import server
from scheduler_svc.api.grpc.server import GrpcLimits
from tests.support.service.api_service import SETTINGS, Service, api_server, collect, rest, running, text_request
from tests.support.service.fakes import FakeGenerator

LONG_S = 20


def changed(**options: int) -> tuple[tuple[str, int], ...]:
    names = {f"grpc.{name}" for name in options}
    assert names <= {name for name, _ in server.SERVER_OPTIONS}
    kept = tuple(option for option in server.SERVER_OPTIONS if option[0] not in names)
    return (*kept, *((f"grpc.{name}", value) for name, value in options.items()))


@asynccontextmanager
async def silent(port: int, count: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Opens connections that say nothing."""
    pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    yield [reader for reader, _ in pairs]
    for _, writer in pairs:
        writer.close()


async def until_closed(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(LONG_S):
        with suppress(ConnectionResetError):
            await reader.read()


async def test_connections_beyond_the_limit_are_closed_and_others_go_on() -> None:
    generator = FakeGenerator()
    api = api_server(generator, limits=GrpcLimits(max_connections=3))
    await api.start()
    async with grpc.aio.insecure_channel(api.address) as channel:
        stubs = inference_pb2_grpc.InferenceServiceStub(channel), batches_pb2_grpc.BatchesServiceStub(channel)
        service = Service(generator, api, channel, *stubs)
        assert await collect(service, text_request("hello", max_tokens=2))
        async with silent(api.port, 5) as readers:
            closed = [asyncio.create_task(until_closed(reader)) for reader in readers]
            async with asyncio.timeout(LONG_S):
                while sum(task.done() for task in closed) < 3:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert await collect(service, text_request("hello", max_tokens=2))
            for task in closed:
                task.cancel()
    await api.stop(0)


async def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SERVER_OPTIONS", changed(server_handshake_timeout_ms=100))
    async with running(FakeGenerator()) as service, silent(service.server.port, 1) as [reader]:
        await until_closed(reader)


async def test_an_idle_connection_is_closed_and_comes_back_and_a_stream_is_never_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "SERVER_OPTIONS", changed(max_connection_idle_ms=100))
    generator = FakeGenerator(hold_after=1)
    async with running(generator) as service, grpc.aio.insecure_channel(service.server.address) as other:
        stub = inference_pb2_grpc.InferenceServiceStub(other)
        stream = stub.Generate(text_request("hello"))
        await stream.read()
        generator.hold_after = None
        assert await collect(service, text_request("hello", max_tokens=2))
        async with asyncio.timeout(LONG_S):
            while service.channel.get_state() is not grpc.ChannelConnectivity.IDLE:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert await collect(service, text_request("hello", max_tokens=2))
        for request_id in list(generator.live):
            generator.abort(request_id)
        assert (await rest(stream))[-1].HasField("finish")


async def test_one_connection_may_hold_every_request_that_may_be_live() -> None:
    options = dict(api_server(FakeGenerator())._options())
    assert options["grpc.max_concurrent_streams"] > SETTINGS.max_ls_requests + SETTINGS.max_be_requests
    assert "grpc.max_connection_age_ms" not in options
