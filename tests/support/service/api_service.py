"""The real gRPC server over a fake generator, on a free port of this machine, with a channel to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from qllm.v1 import batches_pb2_grpc, inference_pb2_grpc
from qllm.v1 import inference_pb2 as pb

from scheduler_svc.api.backend import Backend
from scheduler_svc.api.grpc.admin import Operation, ServiceSettings
from scheduler_svc.api.grpc.server import DEFAULT_LIMITS, ApiServer, GrpcLimits
from scheduler_svc.api.listening import Listening
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.security.gate import Gate
from scheduler_svc.security.tls import Certificates, TlsFiles
from tests.support.jobs.memory_jobs import MemoryJobs
from tests.support.service.fakes import FakeGenerator

SETTINGS = ServiceSettings(
    version="1.2.3",
    policy="qllm",
    preempt_at="expert",
    preemption_quantum_ms=5.0,
    be_min_share=0.05,
    max_ls_requests=256,
    max_be_requests=4096,
    ls_ttft_ms=250.0,
    ls_tpot_ms=50.0,
)
OPERATION = Operation(SETTINGS)
THIS_MACHINE = Listening()


@dataclass
class Service:
    """A running server and a client's way to it."""

    generator: FakeGenerator
    server: ApiServer
    channel: grpc.aio.Channel
    inference: "inference_pb2_grpc.InferenceServiceAsyncStub"
    batches: "batches_pb2_grpc.BatchesServiceAsyncStub"


def api_server(
    generator: FakeGenerator,
    texts: TextGenerator | None = None,
    jobs: MemoryJobs | None = None,
    listening: Listening = THIS_MACHINE,
    limits: GrpcLimits = DEFAULT_LIMITS,
    operation: Operation = OPERATION,
) -> ApiServer:
    """Returns a server that is not started yet, on a free port if nothing else is said."""
    return ApiServer(Backend(generator, texts or TextGenerator(generator), jobs), operation, listening, limits)


@asynccontextmanager
async def running(
    generator: FakeGenerator,
    jobs: MemoryJobs | None = None,
    *,
    gate: Gate | None = None,
    tls: TlsFiles | None = None,
) -> AsyncIterator[Service]:
    """Runs a server until the block ends; the channel speaks plainly and has no key."""
    texts = TextGenerator(generator)
    certificates = None if tls is None else Certificates(tls)
    server = api_server(generator, texts, jobs, Listening(gate=gate, certificates=certificates))
    await server.start()
    options = (("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0))
    async with grpc.aio.insecure_channel(server.address, options=options) as channel:
        try:
            inference, batches = (
                inference_pb2_grpc.InferenceServiceStub(channel),
                batches_pb2_grpc.BatchesServiceStub(channel),
            )
            yield Service(generator, server, channel, inference, batches)
        finally:
            await server.stop(grace_s=0)
            texts.close()


def text_request(text: str, **stop: object) -> pb.GenerateRequest:
    """A request with a text prompt and stop conditions."""
    return pb.GenerateRequest(text=text, stop=pb.StopConditions(**stop))  # type: ignore[arg-type]


async def collect(service: Service, request: pb.GenerateRequest) -> list[pb.GenerateResponse]:
    """Returns all messages of one generation."""
    return [response async for response in service.inference.Generate(request, timeout=300)]


async def rest(call: "grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]") -> list[pb.GenerateResponse]:
    """Returns the messages that are left, of a stream that was begun with `read`."""
    responses = []
    while isinstance(response := await call.read(), pb.GenerateResponse):
        responses.append(response)
    return responses
