"""The calls about jobs over one channel: owns what is tried again, so that no job is lost or made twice."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

import grpc
from qllm.client.batches import (
    Batch,
    BatchItem,
    BatchPage,
    BatchResult,
    decode_batch,
    decode_result,
    encode_batch,
)
from qllm.client.endpoint import Endpoint
from qllm.client.errors import ServerError, Unavailable
from qllm.v1 import batches_pb2 as pb
from qllm.v1 import batches_pb2_grpc

# A service that is started again is back within this time, unless its model is large.
PATIENCE_S = 120.0
_CREATE_TRIES = 3
_RETRY_S = 0.5
_BROKE_WHILE_SENDING = "Internal error from Core"


class BatchCalls:
    """What `AsyncClient` does about jobs; see its methods.

    Args:
        channel: The way to the service.
        endpoint: Where it is.
        timeout_s: Limit for each call but those that take as long as their items are many.
    """

    def __init__(self, channel: grpc.aio.Channel, endpoint: Endpoint, timeout_s: float | None) -> None:
        self._stub = batches_pb2_grpc.BatchesServiceStub(channel)
        self._endpoint = endpoint
        self._timeout_s = timeout_s

    async def create(
        self,
        items: Iterable[BatchItem],
        *,
        idempotency_key: str | None,
        metadata: Mapping[str, str] | None,
        completion_window_s: float | None,
    ) -> Batch:
        """Creates a job, trying again where the connection is lost."""
        key = uuid.uuid4().hex if idempotency_key is None else idempotency_key
        messages = encode_batch(list(items), key, metadata or {}, completion_window_s)
        for tries_left in reversed(range(_CREATE_TRIES if key else 1)):
            try:
                return decode_batch(await self._send(messages))
            except Unavailable as error:
                if not tries_left:
                    raise
                await asyncio.sleep(error.retry_after_s or _RETRY_S)
        raise AssertionError("the last try returns or raises")

    async def _send(self, messages: Sequence[pb.CreateBatchRequest]) -> pb.Batch:
        try:
            with self._endpoint.translated_errors():
                return await self._stub.CreateBatch(iter(messages))
        # gRPC ends a call whose connection breaks while it sends as if its caller had cancelled it, or with INTERNAL.
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
        except ServerError as error:
            if _BROKE_WHILE_SENDING not in str(error):
                raise
        raise Unavailable(f"the connection to {self._endpoint.target} broke while the job was sent")

    async def get(self, batch_id: str) -> Batch:
        """Returns a job."""
        with self._endpoint.translated_errors():
            return decode_batch(
                await self._stub.GetBatch(pb.GetBatchRequest(batch_id=batch_id), timeout=self._timeout_s)
            )

    async def list(self, page_size: int | None, page_token: str) -> BatchPage:
        """Returns a page of jobs."""
        request = pb.ListBatchesRequest(page_size=page_size, page_token=page_token)
        with self._endpoint.translated_errors():
            response = await self._stub.ListBatches(request, timeout=self._timeout_s)
        return BatchPage(tuple(map(decode_batch, response.batches)), response.next_page_token)

    async def cancel(self, batch_id: str) -> Batch:
        """Cancels a job."""
        with self._endpoint.translated_errors():
            request = pb.CancelBatchRequest(batch_id=batch_id)
            return decode_batch(await self._stub.CancelBatch(request, timeout=self._timeout_s))

    async def results(self, batch_id: str, from_position: int, *, follow: bool) -> AsyncGenerator[BatchResult, None]:
        """Yields results; with `follow` a stream that is cut is gone on with."""
        patience = _Patience()
        while True:
            request = pb.StreamResultsRequest(batch_id=batch_id, from_position=from_position, follow=follow)
            call = self._stub.StreamResults(request)
            try:
                with self._endpoint.translated_errors():
                    async for message in call:
                        patience.restore()
                        from_position = message.position + 1
                        yield decode_result(message)
            except Unavailable as error:
                if not follow:
                    raise
                await patience.use(error)
            else:
                return
            finally:
                call.cancel()

    async def watch(self, batch_id: str, poll_s: float) -> AsyncGenerator[Batch, None]:
        """Yields a job as it stands, again and again, until it has ended."""
        patience = _Patience()
        while True:
            try:
                batch = await self.get(batch_id)
            except Unavailable as error:
                await patience.use(error)
                continue
            patience.restore()
            yield batch
            if batch.status.is_terminal:
                return
            await asyncio.sleep(poll_s)


class _Patience:
    """How much longer a service that is gone is waited for."""

    def __init__(self) -> None:
        self._time = asyncio.get_running_loop().time
        self.restore()

    def restore(self) -> None:
        """The service is there."""
        self._gone_since_s: float | None = None

    async def use(self, error: Unavailable) -> None:
        """Waits a while; raises the error once it has been long enough."""
        now_s = self._time()
        if self._gone_since_s is None:
            self._gone_since_s = now_s
        if now_s - self._gone_since_s > PATIENCE_S:
            raise error
        await asyncio.sleep(error.retry_after_s or _RETRY_S)
