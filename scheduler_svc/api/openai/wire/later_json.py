"""A whole answer that is made while nothing of its request is held any more: it may wait for its turn for long."""

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

_CACHES = ("_body", "_json")  # where starlette keeps what it has read of a request, as bytes and as objects


class LaterJson(Response):
    """Makes its content once the application's own frames, which hold the request's body, are gone.

    Args:
        make: Makes the content. What it raises is raised with nothing sent.
        headers: Of the answer.
    """

    def __init__(self, make: Callable[[], Awaitable[dict[str, object]]], headers: Mapping[str, str]) -> None:
        self.status_code = 200
        self.background = None
        self._make = make
        self._extra_headers = headers
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        await JSONResponse(await self._make(), headers=self._extra_headers)(scope, receive, send)


def forget_body(request: Request) -> None:
    """Lets go of a body that was read: lists of token ids take fifteen times as much as what they are made to."""
    for name in _CACHES:
        vars(request).pop(name, None)
