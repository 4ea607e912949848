"""Turns jobs, and results of items, into the messages of qllm.v1.BatchesService. Pure."""

from qllm.v1 import batches_pb2 as pb
from qllm.v1 import inference_pb2

from scheduler_svc.jobs.job import ItemKind, ItemResult, ItemStatus, Job, JobStatus

_STATUSES = {
    JobStatus.VALIDATING: pb.BATCH_STATUS_VALIDATING,
    JobStatus.FAILED: pb.BATCH_STATUS_FAILED,
    JobStatus.IN_PROGRESS: pb.BATCH_STATUS_IN_PROGRESS,
    JobStatus.FINALIZING: pb.BATCH_STATUS_FINALIZING,
    JobStatus.COMPLETED: pb.BATCH_STATUS_COMPLETED,
    JobStatus.EXPIRED: pb.BATCH_STATUS_EXPIRED,
    JobStatus.CANCELLING: pb.BATCH_STATUS_CANCELLING,
    JobStatus.CANCELLED: pb.BATCH_STATUS_CANCELLED,
}
# Of items that never got an error of their own.
_ENDS = {
    ItemStatus.CANCELLED: ("CANCELLED", "the job was cancelled before the item had ended"),
    ItemStatus.EXPIRED: ("DEADLINE_EXCEEDED", "the job's completion window closed before the item had ended"),
}


def batch_message(job: Job) -> pb.Batch:
    """Returns a job as it goes over the wire."""
    return pb.Batch(
        batch_id=job.job_id,
        status=_STATUSES[job.status],
        endpoint=job.kind.value,
        num_items=job.counts.total,
        num_succeeded=job.counts.succeeded,
        num_failed=job.counts.failed,
        metadata=job.metadata,
        created_at_s=job.created_at_s,
        expires_at_s=job.expires_at_s,
        in_progress_at_s=job.in_progress_at_s,
        cancelling_at_s=job.cancelling_at_s,
        ended_at_s=job.ended_at_s,
        errors=[pb.BatchInputError(line=error.line, code=error.code, message=error.message) for error in job.errors],
    )


def result_message(kind: ItemKind, result: ItemResult) -> pb.BatchResult:
    """Returns the result of an item of a job of that kind as it goes over the wire."""
    message = pb.BatchResult(position=result.position, custom_id=result.custom_id)
    outcome = result.outcome
    if outcome.status is not ItemStatus.SUCCEEDED:
        code, text = _ENDS.get(outcome.status, ("", ""))
        message.error.code, message.error.message = outcome.error_code or code, outcome.error_message or text
    elif kind is ItemKind.GENERATE:
        message.response.CopyFrom(inference_pb2.GenerateResponse.FromString(outcome.body))
    else:
        message.json = outcome.body.decode()
    return message
