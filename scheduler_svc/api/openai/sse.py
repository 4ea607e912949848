"""Server-sent events: JSON objects as a stream of HTTP. Knows nothing of what is in them."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

DONE = b"data: [DONE]\n\n"


def event(content: object) -> bytes:
    """Returns one event."""
    return b"data: %b\n\n" % json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


class EventStream(Response):
    """Sends events as they come, no faster than the client reads; closes their source when it ends, however it ends.

    Args:
        events: The source.
        headers: Further headers.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> None:
        self.status_code = 200
        self.background = None
        self._events = events
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        async with aclosing(self._events) as events:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for one in events:
                await send({"type": "http.response.body", "body": one, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
