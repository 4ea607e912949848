"""Decides whether what a request says of the reuse of its cache is allowed.

Each refusal is an InvalidRequest that names the field as GenerateRequest does, what was given and what is allowed.
Knows nothing of blocks: what is reused, and by whom, is the core's.
"""

from scheduler_svc.api.validation import Amount
from scheduler_svc.errors import InvalidRequest

MAX_CACHE_SALT_BYTES = 128


def valid_cache_salt(given: str) -> bytes:
    """Returns the salt as bytes; a refusal does not repeat it, since it may be a secret."""
    salt = given.encode()
    if len(salt) > MAX_CACHE_SALT_BYTES:
        raise InvalidRequest("cache_salt", Amount(len(salt), "bytes"), f"at most {MAX_CACHE_SALT_BYTES} bytes of UTF-8")
    return salt
