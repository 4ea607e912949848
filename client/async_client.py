"""The client for asyncio programs: owns one channel to the service. `sync_client` is a face on this one."""

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Self, Unpack

import grpc
from grpc_health.v1 import health_pb2
from qllm.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, inference_pb2_grpc

from client.encoding import encode_request
from client.endpoint import Endpoint
from client.errors import InvalidRequest
from client.messages import GenerateOptions, GenerationResult, Prompt
from client.stream import GenerationStream

DEFAULT_ADDRESS = "127.0.0.1:50051"

ServerInfo = admin_pb2.GetServerInfoResponse
Loads = admin_pb2.GetLoadsResponse
Draining = admin_pb2.DrainResponse


class AsyncClient:
    """Talks to one QLLM service.

        async with AsyncClient("127.0.0.1:50051") as client:
            result = await client.generate("def main():", max_tokens=32).collect()

    Make it inside a running event loop. It connects on the first call, and again after a lost connection. Calls raise a
    `QllmError` when they fail.

    Args:
        address: "host:port", "[IPv6]:port", "unix:path", or another target of gRPC's; loopback addresses and sockets
            are reached directly, others through the proxy that the environment names.
        timeout_s: Limit for every call but `generate`, which has its own.

    Attributes:
        address: The service that it talks to.

    Raises:
        AddressRefused: The address is none (a ValueError).
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, *, timeout_s: float | None = 10.0) -> None:
        self._endpoint = Endpoint(address)
        self.address = address
        self._timeout_s = timeout_s
        self._channel = grpc.aio.insecure_channel(self._endpoint.target, options=self._endpoint.channel_options())
        self._inference = inference_pb2_grpc.InferenceStub(self._channel)
        self._admin = admin_pb2_grpc.AdminStub(self._channel)
        # By its name, for the published types of the generated stub lack its methods.
        self._check_health = self._channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the channel; streams that still run are cancelled on the server."""
        await self._channel.close()

    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> GenerationStream:
        """Sends one request and returns the stream of its tokens.

        Args:
            prompt: Plain text, token ids or a conversation.
            **options: See `GenerateOptions`.

        Raises:
            InvalidRequest: A value does not fit its field's wire type. All other errors come from reading the stream.
        """
        request = encode_request(prompt, options)
        call = self._inference.Generate(request, timeout=options.get("timeout_s"))
        return GenerationStream(call, request.request_id, self._endpoint.error)

    async def generate_all(
        self, prompts: Iterable[Prompt], *, max_concurrency: int = 16, **options: Unpack[GenerateOptions]
    ) -> list[GenerationResult]:
        """Generates from many prompts, `max_concurrency` at a time, and returns the results in the prompts' order.

        Raises:
            QllmError: One of them failed; the others were cancelled on the server.
        """
        slots = asyncio.Semaphore(max_concurrency)

        async def generate_one(prompt: Prompt) -> GenerationResult:
            async with slots:
                return await self.generate(prompt, **options).collect()

        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(generate_one(prompt)) for prompt in prompts]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in running]

    async def abort(self, request_id: str) -> bool:
        """Ends a running or queued request of any connection; returns False if none has the id."""
        with self._endpoint.translated_errors():
            request = inference_pb2.AbortRequest(request_id=request_id)
            response = await self._inference.Abort(request, timeout=self._timeout_s)
        return response.aborted

    async def server_info(self) -> ServerInfo:
        """Returns what is served, how, and within which limits."""
        with self._endpoint.translated_errors():
            return await self._admin.GetServerInfo(admin_pb2.GetServerInfoRequest(), timeout=self._timeout_s)

    async def loads(self, *, check: bool = False) -> Loads:
        """Returns what is queued and running now, and the counters since the worker connected.

        Args:
            check: Also checks whether scheduler and worker agree on who holds the cache, which takes up to five seconds
                if the worker has much to do.
        """
        with self._endpoint.translated_errors():
            return await self._admin.GetLoads(admin_pb2.GetLoadsRequest(check=check), timeout=self._timeout_s)

    async def drain(self, grace_s: float | None = None) -> Draining:
        """Tells the service to stop: it refuses new requests, lets those that run end within the grace, and ends.

        Args:
            grace_s: Seconds that running requests get; None: as the service was started with.

        Raises:
            InvalidRequest: The grace is more than an hour, or negative.
        """
        try:
            request = admin_pb2.DrainRequest(grace_ms=None if grace_s is None else round(grace_s * 1e3))
        except (ValueError, OverflowError) as error:
            raise InvalidRequest(f"grace_s: got {grace_s}, allowed is 0 to 3600") from error
        with self._endpoint.translated_errors():
            return await self._admin.Drain(request, timeout=self._timeout_s)

    async def health(self) -> bool:
        """Returns whether the service takes requests and has a worker that makes progress."""
        with self._endpoint.translated_errors():
            response = await self._check_health(health_pb2.HealthCheckRequest(), timeout=self._timeout_s)
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
