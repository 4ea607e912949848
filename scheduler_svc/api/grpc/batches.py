"""Serves qllm.v1.BatchesService over a store of jobs: checks what comes in, and turns jobs and results into messages.

Errors leave as ServiceError and get their status from the interceptor. Knows nothing of when items run.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from qllm.v1 import batches_pb2 as pb
from qllm.v1 import batches_pb2_grpc as pb_grpc
from qllm.v1 import inference_pb2

from scheduler_svc.api.grpc.batch_messages import batch_message, result_message
from scheduler_svc.api.grpc.choices import require_one_choice
from scheduler_svc.api.grpc.requests import draft_of
from scheduler_svc.api.jobs.errors import JobsNotKept, NoSuchJob
from scheduler_svc.api.jobs.results import all_results, ended_results, require_job
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.caller import current_tenant
from scheduler_svc.errors import NOTHING, InvalidRequest, ServiceError, Words
from scheduler_svc.jobs.interface import JobFrontDoor
from scheduler_svc.jobs.job import ItemKind, Job, NewItem, NewJob
from scheduler_svc.jobs.limits import (
    MAX_JOB_BYTES,
    ItemsSoFar,
    require_idempotency_key,
    require_metadata,
    require_window,
)

if TYPE_CHECKING:
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]

MAX_PAGE_SIZE = 100
DEFAULT_PAGE_SIZE = 20


class BatchesServicer(pb_grpc.BatchesServiceServicer):
    """All methods over a JobFrontDoor.

    Args:
        texts: Judges what items ask for.
        door: Where jobs are; None: none are kept.
    """

    def __init__(self, texts: TextGenerator, door: JobFrontDoor | None) -> None:
        self._texts = texts
        self._given_door = door

    async def CreateBatch(self, request_iterator: AsyncIterator[pb.CreateBatchRequest], context: "Context") -> pb.Batch:
        """Accepts a job; one that is refused, or was accepted before, is heard out first."""
        try:
            job = await self._create(request_iterator)
        except ServiceError:
            await _hear_out(request_iterator)
            raise
        await _hear_out(request_iterator)
        return batch_message(job)

    async def GetBatch(self, request: pb.GetBatchRequest, context: "Context") -> pb.Batch:
        """Returns a job as it stands."""
        return batch_message(await require_job(self._door, current_tenant(), request.batch_id))

    async def ListBatches(self, request: pb.ListBatchesRequest, context: "Context") -> pb.ListBatchesResponse:
        """Returns a page of jobs; a page's token is its last job's id."""
        size = request.page_size if request.HasField("page_size") else DEFAULT_PAGE_SIZE
        if not 1 <= size <= MAX_PAGE_SIZE:
            raise InvalidRequest("page_size", size, f"1 to {MAX_PAGE_SIZE}")
        tenant, token = current_tenant(), request.page_token
        if token and await self._door.job(tenant, token) is None:
            raise InvalidRequest("page_token", token, "next_page_token of the page before, or nothing")
        jobs, has_more = await self._door.jobs(tenant, token or None, size)
        next_token = jobs[-1].job_id if has_more and jobs else ""
        return pb.ListBatchesResponse(batches=map(batch_message, jobs), next_page_token=next_token)

    async def StreamResults(
        self, request: pb.StreamResultsRequest, context: "Context"
    ) -> AsyncIterator[pb.BatchResult]:
        """Streams results, those that are there or all."""
        if request.from_position < 0:
            raise InvalidRequest("from_position", request.from_position, "a position, from 0")
        tenant = current_tenant()
        job = await require_job(self._door, tenant, request.batch_id)
        read = all_results if request.follow else ended_results
        async with aclosing(read(self._door, tenant, job.job_id, request.from_position)) as results:
            async for result in results:
                yield result_message(job.kind, result)

    async def CancelBatch(self, request: pb.CancelBatchRequest, context: "Context") -> pb.Batch:
        """Cancels a job."""
        job: Job | None = await self._door.cancel_job(current_tenant(), request.batch_id)
        if job is None:
            raise NoSuchJob(request.batch_id)
        return batch_message(job)

    @property
    def _door(self) -> JobFrontDoor:
        """Where jobs are; raises JobsNotKept if there are none."""
        if self._given_door is None:
            raise JobsNotKept
        return self._given_door

    async def _create(self, messages: AsyncIterator[pb.CreateBatchRequest]) -> Job:
        door = self._door
        job = await _read_header(messages)
        if job.idempotency_key and (earlier := await door.job_of_key(job.tenant, job.idempotency_key)) is not None:
            return earlier
        async with aclosing(self._read_items(messages)) as items:
            return await door.create_job(job, items)

    async def _read_items(self, messages: AsyncIterator[pb.CreateBatchRequest]) -> AsyncGenerator[NewItem, None]:
        so_far, index = ItemsSoFar(), 0
        async for message in messages:
            field = f"items[{index}]"
            if message.WhichOneof("part") != "item":
                raise InvalidRequest(field, _part(message), "an item: the header comes once, and first")
            body = message.item.request.SerializeToString()
            so_far.take(f"{field}.custom_id", message.item.custom_id, len(body))
            self._require_request(f"{field}.request", message.item.request)
            yield NewItem(message.item.custom_id, body)
            index += 1

    def _require_request(self, field: str, request: inference_pb2.GenerateRequest) -> None:
        """Raises InvalidRequest for what is wrong with a request whatever its prompt is."""
        judged = inference_pb2.GenerateRequest()
        judged.CopyFrom(request)
        for unused in ("request_id", "request_class", "targets"):
            judged.ClearField(unused)
        try:
            require_one_choice(judged)
            self._texts.check(draft_of(judged))
        except InvalidRequest as error:
            raise InvalidRequest(f"{field}.{error.field}", error.given, error.allowed) from error


async def _hear_out(messages: AsyncIterator[pb.CreateBatchRequest]) -> None:
    """Reads on, within a limit: a client that is still sending may take an early end for a broken connection."""
    num_bytes = 0
    async for message in messages:
        num_bytes += message.ByteSize()
        if num_bytes > MAX_JOB_BYTES:
            return


def _part(message: pb.CreateBatchRequest) -> Words:
    """Returns what a message has, to be shown."""
    return {"header": Words("a header"), "item": Words("an item")}.get(message.WhichOneof("part") or "", NOTHING)


async def _read_header(messages: AsyncIterator[pb.CreateBatchRequest]) -> NewJob:
    """Returns what the first message says of the job."""
    first = await anext(aiter(messages), pb.CreateBatchRequest())
    if first.WhichOneof("part") != "header":
        raise InvalidRequest("header", _part(first), "a header as the first message")
    header = first.header
    require_idempotency_key("header.idempotency_key", header.idempotency_key)
    require_metadata("header.metadata", header.metadata)
    window_s = header.completion_window_s if header.HasField("completion_window_s") else 86400.0
    require_window("header.completion_window_s", window_s)
    return NewJob(
        tenant=current_tenant(),
        kind=ItemKind.GENERATE,
        idempotency_key=header.idempotency_key,
        completion_window_s=window_s,
        metadata=dict(header.metadata),
    )
