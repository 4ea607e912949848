"""Reads a job's input file. What is wrong with a line's form fails the job; with its body, that item alone.

{"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": {...}}

Bodies are judged when they run, as those of requests that are sent alone.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence

from scheduler_svc.errors import InvalidRequest
from scheduler_svc.jobs.job import ItemKind, LineError, NewItem
from scheduler_svc.jobs.limits import MAX_ITEM_BYTES, ItemsSoFar
from scheduler_svc.wording import shown

# As long as the body of a request that is sent alone may be.
MAX_LINE_BYTES = MAX_ITEM_BYTES
# A file that is wrong from beginning to end is not read out to its sender.
MAX_ERRORS = 50
_HALF = re.compile("[\ud800-\udfff]")
# Others' requests get a turn after so many bytes, which take some milliseconds.
_BYTES_PER_TURN = 1 << 18


class InputFailed(Exception):
    """A file can't be a job's input; `errors` says what is wrong with its lines, the first MAX_ERRORS of them."""

    def __init__(self, errors: Sequence[LineError]) -> None:
        super().__init__(f"{len(errors)} lines")
        self.errors = errors


class BadLine(Exception):
    """A line is not as it has to be; `code` is a word for how."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


async def read_input(content: AsyncIterator[bytes], kind: ItemKind) -> AsyncGenerator[NewItem, None]:
    """Yields the items in a file for a job of that kind, until a line is wrong; then it looks at the rest, and raises.

    Raises:
        InputFailed: Lines are wrong, or there are none.
    """
    errors: list[LineError] = []
    so_far = ItemsSoFar()
    since_turn, number = 0, 0
    async for number, line in _lines(content):
        since_turn += len(line)
        if since_turn >= _BYTES_PER_TURN:
            since_turn = 0
            await asyncio.sleep(0)
        try:
            item = _item(line, kind, so_far) if line.strip() else None
        except BadLine as bad:
            errors.append(LineError(number, bad.code, str(bad)))
            if len(errors) == MAX_ERRORS:
                break
        else:
            if item is not None and not errors:
                yield item
    if not errors and not so_far.number:
        errors.append(LineError(max(number, 1), "empty_file", "the file has no requests: allowed is one a line"))
    if errors:
        raise InputFailed(errors)


async def _lines(content: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, bytes]]:
    """Yields lines with their numbers, from 1; of one that is too long so much that this shows."""
    number, rest = 0, bytearray()
    async for piece in content:
        *whole, last = piece.split(b"\n")
        for part in whole:
            number += 1
            yield number, bytes(rest + part)
            rest.clear()
        rest += last
        del rest[MAX_LINE_BYTES + 1 :]
    if rest:
        yield number + 1, bytes(rest)


def _item(line: bytes, kind: ItemKind, so_far: ItemsSoFar) -> NewItem:
    """Returns the item on a line; raises BadLine."""
    if len(line) > MAX_LINE_BYTES:
        raise BadLine("line_too_long", f"got more than {MAX_LINE_BYTES} bytes, allowed are at most so many in one line")
    given = _object(line)
    for name, allowed in (("method", "POST"), ("url", kind.value)):
        if given.get(name) != allowed:
            raise BadLine(f"invalid_{name}", f"{name}: got {_shown(given, name)}, allowed is {allowed!r} in this job")
    custom_id, body = given.get("custom_id"), given.get("body")
    if not isinstance(custom_id, str):
        raise BadLine("invalid_custom_id", f"custom_id: got {_shown(given, 'custom_id')}, allowed is a text")
    if not isinstance(body, dict):
        raise BadLine("invalid_body", f"body: got {_shown(given, 'body')}, allowed is an object")
    serialized = _serialized(body)
    try:
        so_far.take("custom_id", custom_id, len(serialized))
    except InvalidRequest as refusal:
        raise BadLine("invalid_custom_id" if refusal.field == "custom_id" else "too_large", str(refusal)) from None
    return NewItem(custom_id, serialized)


def _object(line: bytes) -> dict[str, object]:
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else "no UTF-8, nested too deeply, or too long"
        raise BadLine("invalid_json_line", f"got no JSON that can be read: {reason}") from None
    if not isinstance(given, dict):
        raise BadLine("invalid_json_line", "got a value that is no object, allowed is an object")
    _refuse_unknown(given)
    return given


def _serialized(body: object) -> bytes:
    """Returns a body as JSON: as short as it came, but for halves of characters, which UTF-8 can't hold."""
    try:
        text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
        return text.encode() if _HALF.search(text) is None else json.dumps(body, separators=(",", ":")).encode()
    except RecursionError:
        raise BadLine("invalid_body", "body: got a value that is nested too deeply, allowed is an object") from None


def _refuse_unknown(given: dict[str, object]) -> None:
    known = ("custom_id", "method", "url", "body")
    unknown: Iterator[str] = (name for name in given if name not in known)
    name = next(unknown, None)
    if name is not None:
        raise BadLine("unknown_field", f"got the field {name[:60]!r}, allowed are {', '.join(known)}")


def _shown(given: dict[str, object], name: str) -> str:
    return shown(given[name]) if name in given else "nothing"
