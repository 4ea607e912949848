"""Says how large jobs and files may be and how long their words, and refuses what is larger or could not be stored.

The only place that does: whoever takes a job in gives the name that the field has in its own API.
"""

from collections.abc import Mapping
from hashlib import blake2b

from scheduler_svc.errors import Amount, InvalidRequest

MAX_ITEMS = 50_000
MAX_ITEM_BYTES = 4 << 20
MAX_JOB_BYTES = 200 << 20
MAX_FILE_BYTES = 200 << 20
MAX_CUSTOM_ID_CHARACTERS = 256
MAX_KEY_CHARACTERS = 128
MAX_METADATA_PAIRS, MAX_METADATA_KEY_CHARACTERS, MAX_METADATA_VALUE_CHARACTERS = 16, 64, 512
MAX_FILENAME_CHARACTERS = 256
_DIGEST_BYTES = 16
MIN_WINDOW_S, MAX_WINDOW_S = 1.0, 30 * 86400.0


def require_idempotency_key(field: str, given: str) -> None:
    """Raises InvalidRequest unless it is empty or may be the key of a job."""
    if len(given) > MAX_KEY_CHARACTERS or not (given.isascii() and (given.isprintable() or not given)):
        raise InvalidRequest(field, given, f"at most {MAX_KEY_CHARACTERS} printable ASCII characters")


def require_metadata(field: str, given: Mapping[str, str]) -> None:
    """Raises InvalidRequest for too many words, or too long ones."""
    if len(given) > MAX_METADATA_PAIRS:
        raise InvalidRequest(field, Amount(len(given), "pairs"), f"at most {MAX_METADATA_PAIRS} pairs")
    for key, value in given.items():
        require_text(f"{field}.key", key, 1, MAX_METADATA_KEY_CHARACTERS)
        require_text(f"{field}[{key!r}]", value, 0, MAX_METADATA_VALUE_CHARACTERS)


def require_window(field: str, given_s: float) -> None:
    """Raises InvalidRequest unless a job may have so many seconds."""
    if not MIN_WINDOW_S <= given_s <= MAX_WINDOW_S:  # also for NaN
        raise InvalidRequest(field, given_s, f"seconds in [{MIN_WINDOW_S:g}, {MAX_WINDOW_S:.0f}]")


def require_filename(field: str, given: str) -> None:
    """Raises InvalidRequest unless a file may be called that."""
    require_text(field, given, 1, MAX_FILENAME_CHARACTERS)


def require_file_bytes(num_bytes: int) -> None:
    """Raises InvalidRequest for a file that is too large."""
    if num_bytes > MAX_FILE_BYTES:
        raise InvalidRequest("file", Amount(num_bytes, "bytes or more"), f"at most {MAX_FILE_BYTES} bytes")


def require_text(field: str, given: str, least: int, most: int) -> None:
    """Raises InvalidRequest for a text that is too short or too long, or that a database can't hold."""
    is_storable = "\0" not in given and not any("\ud800" <= character <= "\udfff" for character in given)
    if not least <= len(given) <= most or not is_storable:
        length = f"{least} to {most}" if least else f"at most {most}"
        raise InvalidRequest(field, given, f"{length} characters of Unicode, none of them NUL")


class ItemsSoFar:
    """Counts a job's items as they come in, and knows which ids there were, in some MiB at most."""

    def __init__(self) -> None:
        self._id_digests: set[bytes] = set()  # ids may be a KiB each
        self._num_bytes = 0

    @property
    def number(self) -> int:
        """How many items there are."""
        return len(self._id_digests)

    def take(self, field: str, custom_id: str, num_bytes: int) -> None:
        """Counts one more item, of so many bytes; raises InvalidRequest if the job can't have it.

        Args:
            field: What `custom_id` is called in an error.
            custom_id: What the item is called.
            num_bytes: How large its body is.
        """
        require_text(field, custom_id, 1, MAX_CUSTOM_ID_CHARACTERS)
        digest = blake2b(custom_id.encode(), digest_size=_DIGEST_BYTES).digest()
        if digest in self._id_digests:
            raise InvalidRequest(field, custom_id, "an id that no earlier item of the job has")
        if num_bytes > MAX_ITEM_BYTES:
            raise InvalidRequest("item", Amount(num_bytes, "bytes"), f"at most {MAX_ITEM_BYTES} bytes in one item")
        if self.number == MAX_ITEMS:
            raise InvalidRequest("items", Amount(MAX_ITEMS + 1, "items or more"), f"at most {MAX_ITEMS} in one job")
        self._id_digests.add(digest)
        self._num_bytes += num_bytes
        if self._num_bytes > MAX_JOB_BYTES:
            given = Amount(self._num_bytes, "bytes or more")
            raise InvalidRequest("items", given, f"at most {MAX_JOB_BYTES} bytes in one job")
