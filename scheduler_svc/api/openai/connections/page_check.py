"""Refuses what a web page of somebody else's asks a service that needs no key to do.

A browser lets any page send forms and empty requests to a server that it can reach, on this machine for example, or
behind a proxy, without asking it first: an upload, or the end of a job. It says then whose page it is (`Origin`), which
programs do not. What is called JSON a browser sends only if the server agrees, so that is left to it.
"""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from scheduler_svc.api.openai.wire.errors import StrangePage, error_response

_ANY = "*"
_JSON = "application/json"
_HARMLESS = ("GET", "HEAD", "OPTIONS")


class PageCheck:
    """An ASGI application around another one.

    Args:
        app: The application.
        cors_origins: Pages of these origins may ask, "*" for all.
    """

    def __init__(self, app: ASGIApp, cors_origins: Sequence[str]) -> None:
        self._app = app
        self._origins = frozenset(cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is None or scope["method"] in _HARMLESS or self._may_ask(origin, headers):
            await self._app(scope, receive, send)
        else:
            await error_response(StrangePage(origin))(scope, receive, send)

    def _may_ask(self, origin: str, headers: Headers) -> bool:
        is_allowed = _ANY in self._origins or origin in self._origins
        is_own = origin.partition("://")[2] == headers.get("host")
        return is_allowed or is_own or headers.get("content-type", "").partition(";")[0].strip().lower() == _JSON
