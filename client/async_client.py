"""The client for asyncio programs: owns one channel to the service. `sync_client` is a face on this one."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from types import TracebackType
from typing import Self, Unpack

from grpc_health.v1 import health_pb2
from qllm.client.access import Access, AccessOptions
from qllm.client.batch_calls import BatchCalls
from qllm.client.batches import Batch, BatchItem, BatchPage, BatchResult
from qllm.client.checking import checked_options, checked_prompts, refusal
from qllm.client.encoding import encode_request
from qllm.client.endpoint import Endpoint
from qllm.client.errors import InvalidRequest
from qllm.client.messages import GenerateOptions, GenerationResult, Prompt
from qllm.client.stream import GenerationStream
from qllm.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, inference_pb2_grpc

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
        timeout_s: Limit for every call but `generate`, which has its own, `create_batch` and streams of results.
        **access: What the service asks for: see `AccessOptions`.

    Attributes:
        address: The service that it talks to.

    Raises:
        AddressRefused: The address is none (a ValueError).
        AccessRefused: A file can't be used, or the API key can't be sent (a ValueError).
    """

    def __init__(
        self, address: str = DEFAULT_ADDRESS, *, timeout_s: float | None = 10.0, **access: Unpack[AccessOptions]
    ) -> None:
        shown = Access(**access)
        self._endpoint = Endpoint(address, speaks_tls=shown.speaks_tls)
        shown.require_protection(is_local=self._endpoint.is_local, speaks_tls=shown.speaks_tls)
        self.address = address
        self._timeout_s = timeout_s
        self._channel = shown.open_channel(self._endpoint.target, self._endpoint.channel_options())
        self._inference = inference_pb2_grpc.InferenceServiceStub(self._channel)
        self._admin = admin_pb2_grpc.AdminServiceStub(self._channel)
        self._batches = BatchCalls(self._channel, self._endpoint, timeout_s)
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
            InvalidRequest: There is no such option, or a value is of another kind. All other errors come from reading
                the stream.
        """
        request = encode_request(prompt, options)
        call = self._inference.Generate(request, timeout=options.get("timeout_s"))
        num_choices = request.num_choices if request.HasField("num_choices") else 1
        return GenerationStream(call, request.request_id, self._endpoint.error, num_choices)

    async def generate_all(
        self, prompts: Iterable[Prompt], *, max_concurrency: int = 16, **options: Unpack[GenerateOptions]
    ) -> list[GenerationResult]:
        """Generates from many prompts, `max_concurrency` at a time, and returns the results in the prompts' order.

        Raises:
            QllmError: One of them failed; the others were cancelled on the server.
        """
        each = checked_prompts(prompts)
        checked_options(options)
        if max_concurrency < 1:
            raise refusal("max_concurrency", max_concurrency, "an integer of at least 1")
        slots = asyncio.Semaphore(max_concurrency)

        async def generate_one(prompt: Prompt) -> GenerationResult:
            async with slots:
                return await self.generate(prompt, **options).collect()

        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(generate_one(prompt)) for prompt in each]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in running]

    async def abort(self, request_id: str) -> bool:
        """Ends a running or queued request of any connection; returns False if none has the id.

        Where the service asks for API keys, only requests of the same tenant are found, and all with the permission
        to administer.
        """
        with self._endpoint.translated_errors():
            request = inference_pb2.AbortRequest(request_id=request_id)
            response = await self._inference.Abort(request, timeout=self._timeout_s)
        return response.aborted

    async def create_batch(
        self,
        items: Iterable[BatchItem],
        *,
        idempotency_key: str | None = None,
        metadata: Mapping[str, str] | None = None,
        completion_window_s: float | None = None,
    ) -> Batch:
        """Creates a durable job of many requests, which run as best-effort work; when this returns it is on disk.

        Args:
            items: The requests.
            idempotency_key: A second job with the same key is the first one. By default a new key, so that this call,
                which tries again where the connection is lost, makes one job; empty for none.
            metadata: Your own words, which are returned with the job.
            completion_window_s: After so many seconds what has not ended expires; None: a day.

        Raises:
            InvalidRequest: An item is not allowed; it is named as in items[3].custom_id, and there is no job.
            ServerError: FAILED_PRECONDITION: the service keeps no jobs.
        """
        return await self._batches.create(
            items, idempotency_key=idempotency_key, metadata=metadata, completion_window_s=completion_window_s
        )

    async def get_batch(self, batch_id: str) -> Batch:
        """Returns a job as it stands; ServerError with NOT_FOUND if there is none."""
        return await self._batches.get(batch_id)

    async def list_batches(self, *, page_size: int | None = None, page_token: str = "") -> BatchPage:
        """Returns a page of jobs, newest first; its `next_page_token` asks for the next one."""
        return await self._batches.list(page_size, page_token)

    def batch_results(
        self, batch_id: str, *, from_position: int = 0, follow: bool = False
    ) -> AsyncGenerator[BatchResult, None]:
        """Yields the results of a job's items that have ended, by position.

        Args:
            batch_id: The job.
            from_position: The first item of interest.
            follow: Waits for all items, in order, until the job has ended; a service that goes away is waited for.
        """
        return self._batches.results(batch_id, from_position, follow=follow)

    def watch_batch(self, batch_id: str, *, poll_s: float = 0.5) -> AsyncGenerator[Batch, None]:
        """Yields a job as it stands, every `poll_s` seconds, until it has ended; a service that goes is waited for."""
        return self._batches.watch(batch_id, poll_s)

    async def cancel_batch(self, batch_id: str) -> Batch:
        """Cancels a job: what has not ended is not run, what is there stays. One that has ended stays as it is."""
        return await self._batches.cancel(batch_id)

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

    async def hand_over(self) -> None:
        """Lets a worker that stands by serve in place of the one that does; raises QllmError if none does."""
        with self._endpoint.translated_errors():
            await self._admin.Handover(admin_pb2.HandoverRequest(), timeout=self._timeout_s)

    async def health(self) -> bool:
        """Returns whether the service takes requests and has a worker that makes progress."""
        with self._endpoint.translated_errors():
            response = await self._check_health(health_pb2.HealthCheckRequest(), timeout=self._timeout_s)
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
