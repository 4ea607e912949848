"""Bounds plain data of a request, such as schemas: how large it is as JSON, and how deep.

What is too large is refused after a look at no more of it than would be allowed.
"""

import json

from scheduler_svc.errors import Amount, InvalidRequest, Words

MAX_DEPTH = 64
_LEAST_BYTES_OF_FIELD = len('"":1')


def require_size(field: str, value: object, max_bytes: int) -> int:
    """Returns the size of plain data as JSON; refuses what is too large, too deep to be worked on, or no text."""
    _require_bounds(field, value, max_bytes)
    try:
        num_bytes = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    except UnicodeEncodeError:  # JSON can name halves of characters
        raise InvalidRequest(field, "a half of a character", "text without halves of surrogate pairs") from None
    if num_bytes > max_bytes:
        raise InvalidRequest(field, Amount(num_bytes, "bytes"), _allowed(max_bytes))
    return num_bytes


def _require_bounds(field: str, value: object, max_bytes: int) -> None:
    """Refuses what has too many levels, or can't be short enough; takes no step more than there may be bytes."""
    left, level = max_bytes, [value]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for one in level:
            parts: list[object] = []
            if isinstance(one, dict):
                left -= _LEAST_BYTES_OF_FIELD * len(one)
                if left >= 0:
                    left -= sum(map(len, one))
                    parts = list(one.values())
            elif isinstance(one, list):
                left -= len(one)
                parts = one
            elif isinstance(one, str):
                left -= len(one)
            if left < 0:
                raise InvalidRequest(field, Words(f"more than {max_bytes} bytes"), _allowed(max_bytes))
            below += parts
        if not below:
            return
        level = below
    raise InvalidRequest(field, Amount(MAX_DEPTH + 1, "levels and more"), f"at most {MAX_DEPTH} levels")


def _allowed(max_bytes: int) -> str:
    return f"at most {max_bytes} bytes of JSON"
