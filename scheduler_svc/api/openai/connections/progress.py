"""Remembers how far an answer has come."""

from collections.abc import MutableMapping
from typing import Any

from starlette.types import Send


class Progress:
    """Passes the parts of an answer on, and notes its begin and end.

    Args:
        send: Takes the parts.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = False
        self.has_ended = False

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Sends a part of the answer."""
        await self._send(message)
        self.has_begun = True
        self.has_ended = message["type"] == "http.response.body" and not message.get("more_body", False)
