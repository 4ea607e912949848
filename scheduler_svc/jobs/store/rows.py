"""Turns rows into what the rest of the service calls them, and back. Columns of a row have no types here."""

import json
import sys
from array import array
from typing import Any

from scheduler_svc.jobs.job import (
    Claim,
    ItemCounts,
    ItemKind,
    ItemOutcome,
    ItemResult,
    ItemStatus,
    Job,
    JobStatus,
    LineError,
    Progress,
    StoredFile,
)


def job_of(row: Any) -> Job:
    """Returns the job of a row of `jobs`."""
    return Job(
        job_id=row.job_id,
        tenant=row.tenant,
        kind=ItemKind(row.kind),
        status=JobStatus(row.status),
        counts=ItemCounts(row.num_items, row.num_succeeded, row.num_failed),
        metadata=json.loads(row.metadata),
        input_file_id=row.input_file_id,
        created_at_s=row.created_at,
        expires_at_s=row.expires_at,
        in_progress_at_s=row.in_progress_at,
        finalizing_at_s=row.finalizing_at,
        ended_at_s=row.ended_at,
        cancelling_at_s=row.cancelling_at,
        errors=tuple(LineError(*error) for error in json.loads(row.errors)),
    )


def claim_of(row: Any) -> Claim:
    """Returns the claim of a row of `items` that runs, joined with its job and its body."""
    return Claim(
        job_id=row.job_id,
        position=row.position,
        attempt=row.attempt,
        tenant=row.tenant,
        kind=ItemKind(row.kind),
        custom_id=row.custom_id,
        body=row.body,
        progress=progress_of(row.progress_tokens, row.progress_logprobs, row.progress_model),
        lease_ends_at_s=row.due_at,
        expires_at_s=row.expires_at,
        num_failures=row.num_failures,
    )


def result_of(row: Any) -> ItemResult:
    """Returns the result of a row of `items` that has ended, joined with its answer if it has one."""
    outcome = ItemOutcome(
        status=ItemStatus(row.status),
        body=row.body or b"",
        error_code=row.error_code,
        error_message=row.error_message,
    )
    return ItemResult(row.position, row.custom_id, outcome)


def file_of(row: Any) -> StoredFile:
    """Returns the file of a row of `files`."""
    return StoredFile(
        file_id=row.file_id,
        tenant=row.tenant,
        filename=row.filename,
        purpose=row.purpose,
        num_bytes=row.num_bytes,
        created_at_s=row.created_at,
    )


def progress_columns(progress: Progress) -> dict[str, bytes | str | None]:
    """Returns what is stored of progress: 4 bytes a token, 8 a log-probability, little-endian; NULL where none."""
    return {
        "progress_tokens": _packed("i", progress.token_ids),
        "progress_logprobs": _packed("d", progress.logprobs),
        "progress_model": progress.model or None,
    }


def progress_of(tokens: bytes | None, logprobs: bytes | None, model: str | None) -> Progress:
    """Returns the progress that was stored."""
    return Progress(_unpacked("i", tokens), _unpacked("d", logprobs), model or "")


def _packed(kind: str, values: tuple[Any, ...]) -> bytes | None:
    packed: array[Any] = array(kind, values)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes() or None


def _unpacked(kind: str, stored: bytes | None) -> tuple[Any, ...]:
    unpacked: array[Any] = array(kind, stored or b"")
    if sys.byteorder == "big":
        unpacked.byteswap()
    return tuple(unpacked)
