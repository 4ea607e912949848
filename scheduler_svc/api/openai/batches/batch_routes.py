"""The paths below /v1/batches. Knows nothing of when items run."""

import re
from contextlib import aclosing

from fastapi import FastAPI, Header, Query

from scheduler_svc.api.jobs.errors import NoSuchJob
from scheduler_svc.api.jobs.results import require_job
from scheduler_svc.api.openai.batches.door import require_door
from scheduler_svc.api.openai.batches.input_lines import InputFailed, read_input
from scheduler_svc.api.openai.batches.objects import PURPOSE, batch_object, page_object
from scheduler_svc.api.openai.question import JsonObject
from scheduler_svc.api.openai.wire.schemas import BatchRequest
from scheduler_svc.caller import current_tenant
from scheduler_svc.errors import InvalidRequest
from scheduler_svc.jobs.interface import JobFrontDoor
from scheduler_svc.jobs.job import ItemKind, NewJob
from scheduler_svc.jobs.limits import MAX_WINDOW_S, require_idempotency_key, require_metadata

MAX_PAGE_SIZE = 100
_S_PER_HOUR = 3600.0
_HOURS = re.compile(r"([1-9][0-9]{0,3})h")


def add_batches(app: FastAPI, given: JobFrontDoor | None) -> None:
    """Adds the paths; without a door each says that no jobs are kept."""

    @app.post("/v1/batches")
    async def create(body: BatchRequest, idempotency_key: str = Header("")) -> JsonObject:
        """Makes a job of an uploaded file."""
        door = require_door(given)
        return await _create(door, body, idempotency_key)

    @app.get("/v1/batches")
    async def batches(after: str | None = None, limit: int = Query(20, ge=1, le=MAX_PAGE_SIZE)) -> JsonObject:
        """Lists jobs, newest first."""
        door, tenant = require_door(given), current_tenant()
        if after is not None:
            await require_job(door, tenant, after)
        jobs, has_more = await door.jobs(tenant, after, limit)
        return page_object([batch_object(job) for job in jobs], has_more=has_more)

    @app.get("/v1/batches/{batch_id}")
    async def batch(batch_id: str) -> JsonObject:
        """Describes a job as it stands."""
        return batch_object(await require_job(require_door(given), current_tenant(), batch_id))

    @app.post("/v1/batches/{batch_id}/cancel")
    async def cancel(batch_id: str) -> JsonObject:
        """Cancels a job."""
        job = await require_door(given).cancel_job(current_tenant(), batch_id)
        if job is None:
            raise NoSuchJob(batch_id)
        return batch_object(job)


async def _create(door: JobFrontDoor, body: BatchRequest, idempotency_key: str) -> JsonObject:
    require_idempotency_key("idempotency-key", idempotency_key)
    metadata = body.metadata or {}
    require_metadata("metadata", metadata)
    tenant = current_tenant()
    job = NewJob(
        tenant=tenant,
        kind=ItemKind(body.endpoint),
        idempotency_key=idempotency_key,
        completion_window_s=_window_s(body.completion_window),
        metadata=metadata,
        input_file_id=body.input_file_id,
    )
    if idempotency_key and (earlier := await door.job_of_key(tenant, idempotency_key)) is not None:
        return batch_object(earlier)
    file = await door.file(tenant, body.input_file_id)
    if file is None or file.purpose != PURPOSE:
        raise InvalidRequest("input_file_id", body.input_file_id, f"the id of a file uploaded for purpose {PURPOSE!r}")
    try:
        async with aclosing(read_input(door.read_file(tenant, file.file_id), job.kind)) as items:
            return batch_object(await door.create_job(job, items))
    except InputFailed as failed:
        return batch_object(await door.fail_job(job, failed.errors))


def _window_s(given: str) -> float:
    """Returns a window such as 24h in seconds."""
    match = _HOURS.fullmatch(given)
    most = int(MAX_WINDOW_S / _S_PER_HOUR)
    if match is None or int(match[1]) > most:
        raise InvalidRequest("completion_window", given, f"hours from '1h' to '{most}h', such as '24h'")
    return int(match[1]) * _S_PER_HOUR
