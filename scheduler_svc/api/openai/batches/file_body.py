"""A file as the body of an answer, piece by piece as it is read. Knows nothing of what is in it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import quote

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class FileBody(Response):
    """Sends pieces no faster than the client reads; closes their source when it ends, however it ends.

    Args:
        pieces: The source. What it raises before its first piece is raised with nothing sent.
        filename: What browsers call it.
    """

    media_type = "application/octet-stream"

    def __init__(self, pieces: AsyncGenerator[bytes, None], filename: str) -> None:
        self.status_code = 200
        self.background = None
        self._pieces = pieces
        self.init_headers({"content-disposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        async with aclosing(self._pieces):
            piece = await anext(self._pieces, None)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while piece is not None:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                piece = await anext(self._pieces, None)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
