"""The outermost layer of the HTTP application: what holds for each request, whatever it asks for.

    a target such as http://host/path, as for a proxy   -> /path
    HEAD                                                -> GET, whose body the server drops
    x-request-id                                        -> the caller's own, or one that is made, on every answer
    an error that nobody foresaw                        -> logged with that id; 500 "internal error"

Knows nothing of bodies.
"""

import logging
import re
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scheduler_svc.api.openai.connections.progress import Progress
from scheduler_svc.api.openai.wire.errors import error_response
from scheduler_svc.errors import ServiceError

_log = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
# Printable ASCII without what would read as the end of a value in a line of a log; as long as anybody's ids are.
_REQUEST_ID_FORM = re.compile(r"[!#-&(-\[\]-~]{1,128}")
_ABSOLUTE_TARGET = re.compile(r"https?://[^/]*", re.IGNORECASE)


class Envelope:
    """An ASGI application around another one.

    Args:
        app: The application. It may name an id of its own for an answer, which counts unless the caller gave one.
        cors_origins: Web pages of these origins may ask, "*" for all; of others, and by default, browsers let none.
    """

    def __init__(self, app: ASGIApp, cors_origins: Sequence[str] = ()) -> None:
        self._app = _with_cors(app, cors_origins) if cors_origins else app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        given = _given_request_id(scope)
        request_id = given or uuid.uuid4().hex

        async def send_with_id(message: Message) -> None:
            nonlocal request_id
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                request_id = given or headers.get(REQUEST_ID, request_id)  # what the caller sees is what a log says
                headers[REQUEST_ID] = request_id
            await send(message)

        progress = Progress(send_with_id)
        request = {**_plain(scope), "state": {**scope.get("state", {}), "request_id": request_id}}
        try:
            await self._app(request, receive, progress.send)
        except Exception:
            _log.exception("request_id=%s failed unexpectedly", request_id)
            if progress.has_begun and not progress.has_ended:
                raise  # the server closes the connection: an answer that was cut must not look whole
            if not progress.has_begun:
                await error_response(ServiceError("internal error"))(request, receive, progress.send)


def _given_request_id(scope: Scope) -> str | None:
    """Returns the caller's id, None if there is none that can be used."""
    given = Headers(scope=scope).get(REQUEST_ID, "")
    return given if _REQUEST_ID_FORM.fullmatch(given) else None


def _plain(scope: Scope) -> Scope:
    """Returns the request with an ordinary target and method."""
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    if not scope["path"].lower().startswith("http"):
        return {**scope, "method": method}
    path = _ABSOLUTE_TARGET.sub("", scope["path"], count=1) or "/"
    raw_path = _ABSOLUTE_TARGET.sub("", scope["raw_path"].decode("ascii"), count=1) or "/"
    return {**scope, "method": method, "path": path, "raw_path": raw_path.encode("ascii")}


def _with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "HEAD", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=(REQUEST_ID, "retry-after", "retry-after-ms"),
    )
