"""Says how large jobs and files may be, and refuses what is larger or could not be stored."""

from collections.abc import Sequence

from scheduler_svc.errors import InvalidRequest
from scheduler_svc.jobs.job import NewItem, NewJob

MAX_ITEMS = 50_000
MAX_ITEM_BYTES = 4 << 20
MAX_JOB_BYTES = 200 << 20
MAX_FILE_BYTES = 200 << 20
MAX_NAME_CHARACTERS = 512
MAX_METADATA_ENTRIES = 64


def check_job(job: NewJob, items: Sequence[NewItem]) -> None:
    """Refuses a job whose items are too many, too large, or can't be told apart.

    Raises:
        InvalidRequest: It names the first item that is not allowed.
    """
    check_job_words(job)
    if not 1 <= len(items) <= MAX_ITEMS:
        raise InvalidRequest("items", len(items), f"1 to {MAX_ITEMS} of them")
    seen: set[str] = set()
    num_bytes = 0
    for position, item in enumerate(items):
        check_name(f"items[{position}].custom_id", item.custom_id, is_needed=True)
        if item.custom_id in seen:
            raise InvalidRequest(
                f"items[{position}].custom_id", item.custom_id, "one that no other item of the job has"
            )
        seen.add(item.custom_id)
        if len(item.body) > MAX_ITEM_BYTES:
            raise InvalidRequest(f"items[{position}]", len(item.body), f"{MAX_ITEM_BYTES} bytes or less")
        num_bytes += len(item.body)
    if num_bytes > MAX_JOB_BYTES:
        raise InvalidRequest("items", num_bytes, f"{MAX_JOB_BYTES} bytes or less, all items of the job together")


def check_job_words(job: NewJob) -> None:
    """Refuses words of a job that are too long or can't be stored; raises InvalidRequest."""
    check_name("idempotency_key", job.idempotency_key)
    if len(job.metadata) > MAX_METADATA_ENTRIES:
        raise InvalidRequest("metadata", len(job.metadata), f"{MAX_METADATA_ENTRIES} entries or fewer")
    for key, value in job.metadata.items():
        check_name("metadata", key, is_needed=True)
        check_name(f"metadata[{key}]", value)
    if not 0 < job.completion_window_s <= 365 * 86400:
        raise InvalidRequest("completion_window", job.completion_window_s, "more than 0 s and at most a year")


def check_name(field: str, text: str, *, is_needed: bool = False) -> None:
    """Refuses a short text that is too long, or that a database can't hold; raises InvalidRequest."""
    is_storable = "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
    if len(text) > MAX_NAME_CHARACTERS or not is_storable or (is_needed and not text):
        least = 1 if is_needed else 0
        raise InvalidRequest(field, text, f"{least} to {MAX_NAME_CHARACTERS} characters of Unicode, none of them NUL")


def check_file_bytes(num_bytes: int) -> None:
    """Refuses a file that is too large; raises InvalidRequest."""
    if num_bytes > MAX_FILE_BYTES:
        raise InvalidRequest("file", num_bytes, f"{MAX_FILE_BYTES} bytes or less")
