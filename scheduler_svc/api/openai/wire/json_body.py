"""Where the bodies of all requests are read as JSON; what they may hold beside that is said by their schemas."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from scheduler_svc.api.json_text import read_json


class JsonRoute(APIRoute):
    """A route whose handler is given requests that read their bodies so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns what answers a request."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_JsonRequest(request.scope, request.receive))

        return handle


class _JsonRequest(Request):
    async def json(self) -> Any:
        return read_json(await self.body())
