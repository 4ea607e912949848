"""Makes ids that sort by age, and can't be guessed."""

import secrets
from itertools import count

_numbers = count()


def new_id(prefix: str, now_s: float) -> str:
    """Returns an id such as batch_0197f3…: the time in ms, a number that grows in this process, and 64 random bits."""
    return f"{prefix}_{round(now_s * 1e3):012x}{next(_numbers) & 0xFFFFFF:06x}{secrets.token_hex(8)}"
