"""A caller that reads nothing of its answer loses it after a stated time, and the model's memory is free for others."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from qllm.v1 import inference_pb2 as pb
from qllm.v1 import inference_pb2_grpc

from scheduler_svc.api.grpc.server import GrpcLimits
from scheduler_svc.api.openai.connections.limits import HttpLimits
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.generation import GenerationRequest
from tests.support.service.api_service import api_server
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import COMPLETIONS, running_http

LONG_S = 60
# As small a window as HTTP/2 may have here: what is not read fills it soon.
SMALL_WINDOW = (("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0), ("grpc.enable_retries", 0))


def endless(request: GenerationRequest) -> list[int]:
    return [5] * 1_000_000


def generator_without_end() -> FakeGenerator:
    return FakeGenerator(script=endless, tokens_per_event=64)


@asynccontextmanager
async def serving(generator: FakeGenerator, slow_reader_s: float) -> AsyncIterator[grpc.aio.Channel]:
    texts = TextGenerator(generator)
    server = api_server(generator, texts, limits=GrpcLimits(slow_reader_s=slow_reader_s))
    await server.start()
    async with grpc.aio.insecure_channel(server.address, options=SMALL_WINDOW) as channel:
        yield channel
    await server.stop(grace_s=0)
    texts.close()


async def until_closed(generator: FakeGenerator) -> None:
    async with asyncio.timeout(LONG_S):
        while not generator.closed_early:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)


async def read_all(call: "grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]") -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_a_grpc_caller_that_does_not_read_is_ended_and_its_memory_freed() -> None:
    generator = generator_without_end()
    async with serving(generator, slow_reader_s=0.3) as channel:
        call = inference_pb2_grpc.InferenceServiceStub(channel).Generate(pb.GenerateRequest(request_id="x", text="hi"))
        await call.read()
        await until_closed(generator)
        assert (generator.closed_early, generator.live) == (["x"], {})
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_all(call)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "reader too slow" in (caught.value.details() or "")


async def test_a_grpc_caller_that_reads_slowly_but_reads_keeps_its_stream() -> None:
    generator = generator_without_end()
    async with serving(generator, slow_reader_s=0.5) as channel:
        call = inference_pb2_grpc.InferenceServiceStub(channel).Generate(pb.GenerateRequest(request_id="x", text="hi"))
        for _ in range(20):
            for _ in range(200):
                assert isinstance(await call.read(), pb.GenerateResponse)
            await asyncio.sleep(0.05)
        assert generator.closed_early == []
        call.cancel()
        await until_closed(generator)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system can't tell who reads nothing")
async def test_an_http_client_that_does_not_read_is_cut_off_and_its_memory_freed() -> None:
    generator = generator_without_end()
    async with running_http(generator, limits=HttpLimits(slow_reader_s=1.0)) as service:
        body = json.dumps({"prompt": "hi", "max_tokens": 400, "stream": True}).encode()
        head = (
            f"POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        )
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", service.server.port))
            await loop.sock_sendall(client, head.encode() + b"\r\n\r\n" + body)
            await until_closed(generator)
        assert generator.live == {}
