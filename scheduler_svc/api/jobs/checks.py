"""Decides whether what is said of a job, and what its items are called, is allowed.

Each refusal is an InvalidRequest that names the field, what was given and what is allowed. What an item asks for is
judged where requests are.
"""

from collections.abc import Mapping

from scheduler_svc.api.validation import Amount
from scheduler_svc.errors import InvalidRequest
from scheduler_svc.jobs.limits import MAX_ITEMS, MAX_JOB_BYTES

_NUL = "\0"  # databases refuse it in a text

MAX_CUSTOM_ID_CHARS = 256
MAX_KEY_CHARS = 128
MAX_METADATA_PAIRS, MAX_METADATA_KEY_CHARS, MAX_METADATA_VALUE_CHARS = 16, 64, 512
MIN_WINDOW_S, MAX_WINDOW_S = 1.0, 30 * 86400.0


def require_idempotency_key(field: str, given: str) -> None:
    """Raises InvalidRequest unless it is empty or may be the key of a job."""
    if len(given) > MAX_KEY_CHARS or not (given.isascii() and (given.isprintable() or not given)):
        raise InvalidRequest(field, given, f"at most {MAX_KEY_CHARS} printable ASCII characters")


def require_metadata(field: str, given: Mapping[str, str]) -> None:
    """Raises InvalidRequest for too many words, or too long ones."""
    if len(given) > MAX_METADATA_PAIRS:
        raise InvalidRequest(field, Amount(len(given), "pairs"), f"at most {MAX_METADATA_PAIRS} pairs")
    for key, value in given.items():
        if not 1 <= len(key) <= MAX_METADATA_KEY_CHARS or _NUL in key:
            raise InvalidRequest(f"{field}.key", key, f"1 to {MAX_METADATA_KEY_CHARS} characters, none of them NUL")
        if len(value) > MAX_METADATA_VALUE_CHARS or _NUL in value:
            allowed = f"at most {MAX_METADATA_VALUE_CHARS} characters, none of them NUL"
            raise InvalidRequest(f"{field}[{key!r}]", value, allowed)


def require_window(field: str, given_s: float) -> None:
    """Raises InvalidRequest unless a job may have so many seconds."""
    if not MIN_WINDOW_S <= given_s <= MAX_WINDOW_S:  # also for NaN
        raise InvalidRequest(field, given_s, f"seconds in [{MIN_WINDOW_S:g}, {MAX_WINDOW_S:.0f}]")


class ItemsSoFar:
    """Counts a job's items as they come in, and knows what they are called."""

    def __init__(self) -> None:
        self._custom_ids: set[str] = set()
        self._num_bytes = 0

    def take(self, field: str, custom_id: str, num_bytes: int) -> None:
        """Counts one more item, of so many bytes; raises InvalidRequest if the job can't have it.

        Args:
            field: What `custom_id` is called in an error.
            custom_id: What the item is called.
            num_bytes: How large its body is.
        """
        if not 1 <= len(custom_id) <= MAX_CUSTOM_ID_CHARS or _NUL in custom_id:
            raise InvalidRequest(field, custom_id, f"1 to {MAX_CUSTOM_ID_CHARS} characters, none of them NUL")
        if custom_id in self._custom_ids:
            raise InvalidRequest(field, custom_id, "an id that no earlier item of the job has")
        if len(self._custom_ids) == MAX_ITEMS:
            raise InvalidRequest("items", Amount(MAX_ITEMS + 1, "items or more"), f"at most {MAX_ITEMS} in one job")
        self._custom_ids.add(custom_id)
        self._num_bytes += num_bytes
        if self._num_bytes > MAX_JOB_BYTES:
            given = Amount(self._num_bytes, "bytes or more")
            raise InvalidRequest("items", given, f"at most {MAX_JOB_BYTES} bytes in one job")
