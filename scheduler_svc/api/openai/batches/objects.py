"""Jobs and files as OpenAI's API writes them. Pure.

A job's answers and errors are files that are not stored: they are written from its results when they are read, and
their ids are the job's with a word before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from scheduler_svc.api.openai.question import JsonObject
from scheduler_svc.jobs.job import Job, JobStatus, LineError, StoredFile

PURPOSE = "batch"
OutputPart: TypeAlias = Literal["output", "error"]
OUTPUT_PARTS: tuple[OutputPart, ...] = ("output", "error")
_ENDED_AT = {
    JobStatus.FAILED: "failed_at",
    JobStatus.COMPLETED: "completed_at",
    JobStatus.EXPIRED: "expired_at",
    JobStatus.CANCELLED: "cancelled_at",
}
_S_PER_HOUR = 3600


@dataclass(frozen=True, slots=True)
class OutputFile:
    """The file of a job's answers, or of its errors."""

    job_id: str
    part: OutputPart

    @property
    def file_id(self) -> str:
        """The id that callers read it by."""
        return f"file-{self.part}-{self.job_id}"

    @property
    def filename(self) -> str:
        """What a caller might call it."""
        return f"{self.job_id}_{self.part}.jsonl"

    @classmethod
    def of(cls, file_id: str) -> "OutputFile | None":
        """Returns the file of that id; None if the id is none of such a file."""
        for part in OUTPUT_PARTS:
            prefix = f"file-{part}-"
            if file_id.startswith(prefix):
                return cls(file_id.removeprefix(prefix), part)
        return None


def batch_object(job: Job) -> JsonObject:
    """Returns a job. Its files are named once it has ended, each if there is something in it."""
    counts = job.counts
    is_over = job.status.is_terminal
    batch: JsonObject = {
        "id": job.job_id,
        "object": "batch",
        "endpoint": job.kind.value,
        "errors": _errors(job.errors),
        "input_file_id": job.input_file_id,
        "completion_window": f"{(job.expires_at_s - job.created_at_s) / _S_PER_HOUR:g}h",
        "status": job.status.value,
        "output_file_id": _file_id(job, "output", is_there=is_over and counts.succeeded > 0),
        "error_file_id": _file_id(job, "error", is_there=is_over and counts.total > counts.succeeded),
        "created_at": int(job.created_at_s),
        "in_progress_at": _whole(job.in_progress_at_s),
        "expires_at": int(job.expires_at_s),
        "finalizing_at": _whole(job.finalizing_at_s),
        "cancelling_at": _whole(job.cancelling_at_s),
        "request_counts": {"total": counts.total, "completed": counts.succeeded, "failed": counts.failed},
        "metadata": job.metadata or None,
    }
    ended = {name: _whole(job.ended_at_s) if status is job.status else None for status, name in _ENDED_AT.items()}
    return {**batch, **ended}


def file_object(file: StoredFile, keep_s: float | None) -> JsonObject:
    """Returns an uploaded file, which is kept for so long; None: for ever."""
    return {
        "id": file.file_id,
        "object": "file",
        "bytes": file.num_bytes,
        "created_at": int(file.created_at_s),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
        "expires_at": None if keep_s is None else int(file.created_at_s + keep_s),
    }


def output_file_object(file: OutputFile, job: Job, num_bytes: int, keep_s: float | None) -> JsonObject:
    """Returns the file of a job's answers or errors, which is kept as long as its job once that has ended."""
    written = StoredFile(
        file_id=file.file_id,
        tenant=job.tenant,
        filename=file.filename,
        purpose="batch_output",
        num_bytes=num_bytes,
        created_at_s=job.created_at_s if job.ended_at_s is None else job.ended_at_s,
    )
    return file_object(written, None if job.ended_at_s is None else keep_s)


def page_object(objects: Sequence[JsonObject], *, has_more: bool) -> JsonObject:
    """Returns a page of a list."""
    first, last = (objects[0]["id"], objects[-1]["id"]) if objects else (None, None)
    return {"object": "list", "data": objects, "first_id": first, "last_id": last, "has_more": has_more}


def _file_id(job: Job, part: OutputPart, *, is_there: bool) -> str | None:
    return OutputFile(job.job_id, part).file_id if is_there else None


def _errors(errors: Sequence[LineError]) -> JsonObject | None:
    if not errors:
        return None
    data = [{"line": error.line, "code": error.code, "message": error.message, "param": None} for error in errors]
    return {"object": "list", "data": data}


def _whole(time_s: float | None) -> int | None:
    return None if time_s is None else int(time_s)
