"""Decides whether what a request says of the reuse of its cache is allowed.

Each refusal is an InvalidRequest that names the field as GenerateRequest does, what was given and what is allowed.
Knows nothing of blocks: what is reused, and by whom, is the core's.
"""

from scheduler_svc.api.draft import SessionDraft
from scheduler_svc.core.state.sequence import SessionTurn
from scheduler_svc.errors import Amount, InvalidRequest

MAX_CACHE_SALT_BYTES = 128
MAX_SESSION_ID_CHARS = 128
MAX_TOOL_NAME_CHARS = 128


def valid_cache_salt(given: str, tenant: str = "") -> bytes:
    """Returns the salt as bytes, which differ for each tenant; a refusal does not repeat it, it may be a secret."""
    salt = given.encode()
    if len(salt) > MAX_CACHE_SALT_BYTES:
        raise InvalidRequest("cache_salt", Amount(len(salt), "bytes"), f"at most {MAX_CACHE_SALT_BYTES} bytes of UTF-8")
    return b"%b\0%b" % (tenant.encode(), salt) if tenant else salt  # no tenant's name has a zero in it


def valid_session(given: SessionDraft | None) -> SessionTurn | None:
    """Returns the turn of a program that the request is; None if it is none."""
    if given is None:
        return None
    if not given.session_id:
        for field in ("expects_tool_call", "last_turn"):
            if value := getattr(given, field):
                raise InvalidRequest(f"session.{field}", value, "nothing without session_id, which names the program")
    _require_name("session.session_id", given.session_id, 1, MAX_SESSION_ID_CHARS)
    _require_name("session.expects_tool_call", given.expects_tool_call, 0, MAX_TOOL_NAME_CHARS)
    if given.last_turn and given.expects_tool_call:
        allowed = f"false where another turn follows, as expects_tool_call says, which is {given.expects_tool_call!r}"
        raise InvalidRequest("session.last_turn", True, allowed)
    return SessionTurn(given.session_id, given.expects_tool_call, given.last_turn)


def _require_name(field: str, given: str, fewest: int, most: int) -> None:
    if not fewest <= len(given) <= most or not (given.isascii() and given.isprintable()):
        raise InvalidRequest(field, given, f"{fewest} to {most} printable ASCII characters")
