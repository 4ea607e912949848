"""Clients that ask for jobs over gRPC, try again where they may, and read results while the service is alive or not."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Self

import grpc
from qllm.v1 import batches_pb2 as pb
from qllm.v1 import batches_pb2_grpc

from tests.faults.checker.jobs import custom_id_of
from tests.faults.harness.clients import CHANNEL_OPTIONS, message_of
from tests.faults.job_records import FoundJob, FoundResult, JobRecord

_CALL_S = 20.0
_RETRY_S = (0.02, 0.2)
_NAME = "name"
_PAGE_SIZE = 100
# What a call ends with whose service, or whose store, is gone: it may have been carried out.
_BROKE_WHILE_SENDING = "Internal error from Core"  # gRPC's own words, INTERNAL by its code
_EXCUSED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


class JobClients:
    """Clients of any number of schedulers with one store; each call goes to one of them at random.

    Args:
        addresses: Where they are.
        rng: Chooses.
    """

    def __init__(self, addresses: Sequence[str], rng: random.Random) -> None:
        self._addresses = addresses
        self._rng = rng

    async def __aenter__(self) -> Self:
        """Opens the channels."""
        self._channels = [grpc.aio.insecure_channel(each, options=CHANNEL_OPTIONS) for each in self._addresses]
        self._stubs = [batches_pb2_grpc.BatchesServiceStub(channel) for channel in self._channels]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes them."""
        for channel in self._channels:
            await channel.close()

    async def submit(self, record: JobRecord) -> None:
        """Asks for a job; again and again where it has a key, as long as the answer is lost."""
        while True:
            try:
                batch = await self._stub.CreateBatch(_parts(record), timeout=_CALL_S)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _EXCUSED and _BROKE_WHILE_SENDING not in (error.details() or ""):
                    record.refusals.append(f"{error.code().name}: {error.details()}")
                    return
            except asyncio.CancelledError:
                if _is_cancelled():
                    raise
            else:
                record.batch_ids.append(batch.batch_id)
                return
            if not record.key:
                return
            await asyncio.sleep(self._rng.uniform(*_RETRY_S))

    async def all_jobs(self) -> list[pb.Batch]:
        """Returns all jobs as they stand; raises AioRpcError if that can't be had."""
        jobs: list[pb.Batch] = []
        token = ""
        while True:
            page = await self._stub.ListBatches(
                pb.ListBatchesRequest(page_size=_PAGE_SIZE, page_token=token), timeout=_CALL_S
            )
            jobs += page.batches
            if not (token := page.next_page_token):
                return jobs

    async def results(self, batch_id: str) -> AsyncIterator[FoundResult]:
        """Yields the results that are there; raises AioRpcError if they can't be had."""
        request = pb.StreamResultsRequest(batch_id=batch_id)
        async for result in self._stub.StreamResults(request, timeout=_CALL_S):
            yield _found(result)

    async def found(self, batch: pb.Batch) -> FoundJob:
        """Returns a job with its results; raises AioRpcError if they can't be had."""
        results = tuple([result async for result in self.results(batch.batch_id)])
        status = pb.BatchStatus.Name(batch.status).removeprefix("BATCH_STATUS_")
        counts = batch.num_items, batch.num_succeeded, batch.num_failed
        return FoundJob(batch.batch_id, batch.metadata[_NAME], status, *counts, results)

    @property
    def _stub(self) -> Any:
        return self._rng.choice(self._stubs)


def _is_cancelled() -> bool:
    """Whether somebody cancelled this task: gRPC raises the same where a connection breaks while it sends."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _parts(record: JobRecord) -> Iterator[pb.CreateBatchRequest]:
    yield pb.CreateBatchRequest(header=pb.BatchHeader(idempotency_key=record.key, metadata={_NAME: record.name}))
    for position, plan in enumerate(record.plans):
        item = pb.NewBatchItem(custom_id=custom_id_of(position), request=message_of(plan))
        yield pb.CreateBatchRequest(item=item)


def _found(result: pb.BatchResult) -> FoundResult:
    kind = result.WhichOneof("outcome")
    if kind != "response":
        error = f"{result.error.code}: {result.error.message}" if kind == "error" else f"{kind}, and no response"
        return FoundResult(result.position, result.custom_id, error=error)
    return FoundResult(result.position, result.custom_id, tuple(result.response.token_ids))
