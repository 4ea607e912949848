"""Stands between the HTTP server and the application: bounds each request's body, and ends work that nobody waits for.

    reads the body, within its limits ──▶ runs the application ──▶ done
                                              │ client leaves, or the service stops: cancelled

An upload is too large to be held: the application reads it piece by piece, within other limits.

Knows nothing of what is asked.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping
from types import MappingProxyType
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scheduler_svc.api.openai.connections.body_type import with_body_type
from scheduler_svc.api.openai.connections.limits import DEFAULT_LIMITS
from scheduler_svc.api.openai.connections.progress import Progress
from scheduler_svc.api.openai.wire.errors import BodyPacked, BodyTooLarge, BodyTooSlow, error_body, error_response
from scheduler_svc.api.openai.wire.sse import event
from scheduler_svc.caller import set_caller
from scheduler_svc.errors import ServiceError, ServiceStopping
from scheduler_svc.process.panics import ENDINGS, LibraryPanic

# gRPC's limit on a message: a prompt of token ids that fits there fits here.
MAX_BODY_BYTES = 4 << 20
NO_UPLOADS: Mapping[str, int] = MappingProxyType({})
# A client that sends too much is heard out so far, since many read no answer before they have sent everything.
_MAX_DISCARDED_BYTES = 16 * MAX_BODY_BYTES
_MAX_PAUSE_S = 1.0
_MAX_LENGTH_DIGITS = 20
# An upload may take as long as there is progress, up to so long.
_MAX_UPLOAD_S = 900.0
# What a stopping service gives a client to take in why its answer ends.
_LAST_WORD_S = 0.2


class RequestGuard:
    """An ASGI application around another one that takes a body and gives an answer.

    Args:
        app: The application; it gets the whole body at once, and is cancelled when its client leaves.
        body_timeout_s: Seconds within which a body must have come; of an upload, each piece of it.
        uploads: Paths whose bodies the application reads itself, and how many bytes those may have.
    """

    def __init__(
        self,
        app: ASGIApp,
        body_timeout_s: float = DEFAULT_LIMITS.body_timeout_s,
        uploads: Mapping[str, int] = NO_UPLOADS,
    ) -> None:
        self._app = app
        self._body_timeout_s = body_timeout_s
        self._uploads = uploads
        self._running: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    @property
    def num_running(self) -> int:
        """Requests that the application works on."""
        return len(self._running)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        try:
            if self._is_stopping:
                raise ServiceStopping
            _require_plain(scope)
            is_upload = scope.get("method") == "POST" and scope["path"] in self._uploads
            most = self._uploads[scope["path"]] if is_upload else MAX_BODY_BYTES
            length = _told_length(scope)
            if length > most + _MAX_DISCARDED_BYTES:
                raise BodyTooLarge(most)
            if is_upload:
                upload = _bounded(receive, most, self._body_timeout_s)
                await self._run(scope, upload, _never(), Progress(send))
                return
            async with asyncio.timeout(self._body_timeout_s):
                body = await _read_body(receive if length <= most else _hurried(receive))
        except TimeoutError:
            await error_response(BodyTooSlow(self._body_timeout_s))(scope, receive, send)
        except ServiceError as refusal:
            await error_response(refusal)(scope, receive, send)
        else:
            if body is not None:
                scope = with_body_type(scope, body)
                source = _replay(body)
                del body  # it may be megabytes, and the application lets go of it
                await self._run(scope, source, _until_client_leaves(receive), Progress(send))

    async def stop(self, grace_s: float) -> None:
        """Refuses new requests; gives running ones `grace_s` to end, then ends them with an error."""
        self._is_stopping = True
        if self._running:
            await asyncio.wait(self._running, timeout=grace_s)
        for work in self._running:
            work.cancel()

    async def _run(
        self, scope: Scope, source: Receive, until_client_leaves: Coroutine[Any, Any, None], progress: Progress
    ) -> None:
        work = asyncio.create_task(self._work(scope, source, progress))
        leaving = asyncio.create_task(until_client_leaves)
        self._running.add(work)
        try:
            await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()
            leaving.cancel()
            await asyncio.wait((work, leaving))
            self._running.discard(work)
        if not work.cancelled():
            work.result()
        elif self._is_stopping:
            await _say_why(scope, source, progress)

    async def _work(self, scope: Scope, receive: Receive, progress: Progress) -> None:
        host, _ = scope.get("client") or ("", 0)
        set_caller(host)
        try:
            await self._app(scope, receive, progress.send)
        except (Exception, *ENDINGS):
            raise  # the application has answered an Exception already
        except BaseException as panic:
            if not progress.has_begun:
                await error_response(ServiceError("internal error"))(scope, receive, progress.send)
            raise LibraryPanic(type(panic).__name__) from panic


def _require_plain(scope: Scope) -> None:
    """Raises BodyPacked for a body that would have to be unpacked."""
    coding = Headers(scope=scope).get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise BodyPacked(coding)


def _told_length(scope: Scope) -> int:
    """Returns how long a body is going to be; 0 if that is not told."""
    given = Headers(scope=scope).get("content-length", "")
    return int(given) if given.isascii() and given.isdigit() and len(given) <= _MAX_LENGTH_DIGITS else 0


def _hurried(receive: Receive) -> Receive:
    """Returns a source of a body that is known to be too large: it is heard out only as long as it comes."""

    async def hurried() -> Message:
        try:
            async with asyncio.timeout(_MAX_PAUSE_S):
                return await receive()
        except TimeoutError:
            raise BodyTooLarge(MAX_BODY_BYTES) from None

    return hurried


async def _read_body(receive: Receive) -> bytes | None:
    """Returns the body; None if the client left before its end. Raises BodyTooLarge."""
    body = bytearray()
    num_discarded_bytes = 0
    more_body = True
    while more_body and num_discarded_bytes <= _MAX_DISCARDED_BYTES:
        message = await receive()
        if message["type"] != "http.request":
            return None
        more_body = message.get("more_body", False)
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            num_discarded_bytes += len(body) - MAX_BODY_BYTES
            del body[MAX_BODY_BYTES:]
    if num_discarded_bytes:
        raise BodyTooLarge(MAX_BODY_BYTES)
    return bytes(body)


def _replay(body: bytes) -> Receive:
    """Returns a source that gives the body, and after it nothing until the application ends."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        raise AssertionError("nobody sets the event")

    return receive


def _bounded(receive: Receive, max_bytes: int, timeout_s: float) -> Receive:
    """Returns a source that raises BodyTooLarge and BodyTooSlow."""
    num_bytes = 0
    loop = asyncio.get_running_loop()
    end_s = loop.time() + _MAX_UPLOAD_S

    async def bounded() -> Message:
        nonlocal num_bytes
        while True:
            try:
                async with asyncio.timeout_at(min(end_s, loop.time() + timeout_s)):
                    message = await receive()
            except TimeoutError:
                raise BodyTooSlow(timeout_s) from None
            num_bytes += len(message.get("body", b""))
            if num_bytes <= max_bytes:
                return message
            if not message.get("more_body", False) or num_bytes > max_bytes + _MAX_DISCARDED_BYTES:
                raise BodyTooLarge(max_bytes)

    return bounded


async def _never() -> None:
    """Waits: who reads an upload learns from the source that its client has left."""
    await asyncio.Event().wait()


async def _until_client_leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _say_why(scope: Scope, receive: Receive, progress: Progress) -> None:
    """Ends an answer that the service could not finish; a client that does not read finds a closed connection."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LAST_WORD_S):
            if not progress.has_begun:
                await error_response(ServiceStopping())(scope, receive, progress.send)
            elif not progress.has_ended:
                reason = event(error_body(ServiceStopping()))
                await progress.send({"type": "http.response.body", "body": reason, "more_body": False})
