"""Server-sent events: JSON objects as a stream of HTTP, with comments while there are none. Knows nothing of contents.

status and headers ──▶ event, event ... ──▶ end          they leave with the first event, so an error before it has
      ▲                  ▲                               a status of its own
      └── or with a comment, when nothing came for a while
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from scheduler_svc.process.panics import ENDINGS

DONE = b"data: [DONE]\n\n"
# A line that begins so is no part of any event; clients skip it.
COMMENT = b": waiting\n\n"


def event(content: object) -> bytes:
    """Returns one event."""
    return b"data: %b\n\n" % json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


class EventStream(Response):
    """Sends events as they come, no faster than the client reads; closes their source when it ends, however it ends.

    Args:
        begin: Makes the source, for as long as it needs: comments come meanwhile. What it or the source raises before
            the first event, and before any comment, is raised from here, with nothing sent.
        last_event: Makes of an error that is raised later the event that ends the stream.
        headers: Further headers.
        comment_interval_s: Seconds of silence after which a comment is sent.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        begin: Callable[[], Awaitable[AsyncGenerator[bytes, None]]],
        last_event: Callable[[BaseException], bytes],
        headers: Mapping[str, str],
        comment_interval_s: float,
    ) -> None:
        self.status_code = 200
        self.background = None
        self._begin = begin
        self._last_event = last_event
        self._comment_interval_s = comment_interval_s
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        start: Message = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        writer = _Writer(send, start)
        async with writer.commenting(self._comment_interval_s):
            try:
                async with aclosing(await self._begin()) as events:
                    async for one in events:
                        await writer.write(one)
            except ENDINGS:
                raise
            except BaseException as error:
                if not await writer.has_begun():
                    raise
                await writer.write(self._last_event(error))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Writer:
    """Writes the parts of one stream, its start before the first."""

    def __init__(self, send: Send, start: Message) -> None:
        self._send = send
        self._start = start
        self._lock = asyncio.Lock()  # a comment and an event do not both begin the stream
        self._time = asyncio.get_running_loop().time
        self._last_s = self._time()
        self._has_begun = False

    async def has_begun(self) -> bool:
        """Returns whether a part was written; waits for one that is on its way, since its start may have left."""
        async with self._lock:
            return self._has_begun

    async def write(self, part: bytes) -> None:
        """Writes a part."""
        async with self._lock:
            if not self._has_begun:
                await self._send(self._start)
                self._has_begun = True
            await self._send({"type": "http.response.body", "body": part, "more_body": True})
            self._last_s = self._time()

    @asynccontextmanager
    async def commenting(self, interval_s: float) -> AsyncIterator[None]:
        """Writes a comment whenever nothing was written for so long, until the block ends.

        Raises what a comment failed with, at the end of a block that did not fail by itself.
        """
        comments = asyncio.create_task(self._comment_for_ever(interval_s))
        try:
            yield
        finally:
            comments.cancel()
            await asyncio.wait((comments,))
        if not comments.cancelled():
            comments.result()

    async def _comment_for_ever(self, interval_s: float) -> None:
        while True:
            silent_s = self._time() - self._last_s
            if silent_s >= interval_s:
                await self.write(COMMENT)
            else:
                await asyncio.sleep(interval_s - silent_s)
