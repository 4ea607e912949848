"""Writes the files of a job's answers and errors from its results, line by line. Knows nothing of HTTP's side of it.

An item that was refused has the HTTP error that its request would have got by itself; one that was cancelled, or
expired, has none.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc
from google.protobuf.json_format import MessageToJson
from qllm.v1 import inference_pb2

from scheduler_svc.api.jobs.results import ended_results
from scheduler_svc.api.openai.batches.objects import OutputFile
from scheduler_svc.api.openai.question import JsonObject
from scheduler_svc.api.openai.wire.errors import body_of_status, http_status_of
from scheduler_svc.jobs.interface import JobFrontDoor
from scheduler_svc.jobs.job import ItemKind, ItemResult, ItemStatus, Job

_ENDS = {
    ItemStatus.CANCELLED: ("batch_cancelled", "This request was not executed: the batch was cancelled before."),
    ItemStatus.EXPIRED: (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
}


async def output_lines(door: JobFrontDoor, job: Job, file: OutputFile) -> AsyncGenerator[bytes, None]:
    """Yields the lines of a job's file as its results stand."""
    async with aclosing(ended_results(door, job.tenant, job.job_id)) as results:
        async for result in results:
            if (result.outcome.status is ItemStatus.SUCCEEDED) == (file.part == "output"):
                yield output_line(job, result)


def output_line(job: Job, result: ItemResult) -> bytes:
    """Returns one line, its end included."""
    request_id = f"{job.job_id}-{result.position}"
    head = _json({"id": f"batch_req_{request_id}", "custom_id": result.custom_id})
    response, error = _response(job.kind, request_id, result), _json(_error(result))
    return f'{head[:-1]},"response":{response},"error":{error}}}\n'.encode()


def _response(kind: ItemKind, request_id: str, result: ItemResult) -> str:
    """Returns the response as JSON, around an answer that is JSON already."""
    outcome = result.outcome
    if outcome.status is ItemStatus.SUCCEEDED:
        head = _json({"status_code": 200, "request_id": request_id})
        return f'{head[:-1]},"body":{_body(kind, outcome.body)}}}'
    if outcome.status is not ItemStatus.FAILED:
        return _json(None)
    status = _status(outcome.error_code)
    body = body_of_status(status, outcome.error_message)
    return _json({"status_code": http_status_of(status), "request_id": request_id, "body": body})


def _error(result: ItemResult) -> JsonObject | None:
    status = result.outcome.status
    if status not in _ENDS:
        return None
    code, message = _ENDS[status]
    return {"code": code, "message": result.outcome.error_message or message}


def _status(name: str) -> grpc.StatusCode:
    """Returns the status that an outcome names."""
    return grpc.StatusCode.__members__.get(name, grpc.StatusCode.INTERNAL)


def _body(kind: ItemKind, body: bytes) -> str:
    """Returns the answer as JSON; one of gRPC's in the names of its message."""
    if kind is not ItemKind.GENERATE:
        return body.decode()
    message = inference_pb2.GenerateResponse.FromString(body)
    return MessageToJson(message, indent=None, preserving_proto_field_name=True)


def _json(content: object) -> str:
    return json.dumps(content, separators=(",", ":"))
