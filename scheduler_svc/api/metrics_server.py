"""Serves the metrics at /metrics on a port of their own: GET over HTTP/1.1, one request a connection.

    connected ──head came──▶ answered, closed
      └── given way to another, or late: cut off

A client has a few seconds for everything, and one of few places: whoever is silent or slow costs little and keeps
nobody out. Needs nothing of the extra `http`. Knows nothing of what the metrics are.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from http import HTTPStatus

from qllm.addresses import join

from scheduler_svc.metrics import CONTENT_TYPE
from scheduler_svc.process.connection_room import ConnectionRoom
from scheduler_svc.process.listening import listen

_log = logging.getLogger(__name__)

MAX_CONNECTIONS = 16
PATH = "/metrics"
_MAX_HEAD_BYTES = 16 << 10
_END_OF_HEAD = b"\r\n\r\n"
_PLAIN = "text/plain; charset=utf-8"

Page = Callable[[], bytes]


class MetricsServer:
    """A server of one page.

    Args:
        page: Makes the page.
        host: IP address to listen on, without brackets; anything but a loopback address is open
            to others, with no encryption.
        port: 0 for any free port.
        timeout_s: What a client has for everything, from connecting to having read the page.
    """

    def __init__(self, page: Page, host: str, port: int, *, timeout_s: float = 10.0) -> None:
        self._page = page
        self._host = host
        self._requested_port = port
        self._timeout_s = timeout_s
        self._room = ConnectionRoom("metrics", MAX_CONNECTIONS)
        self._connections: set[_Connection] = set()
        self._listener: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self.port = port

    @property
    def address(self) -> str:
        """The address that is listened on, with the real port once bound."""
        return join(self._host, self.port)

    @property
    def num_connections(self) -> int:
        """Connections that are open."""
        return len(self._connections)

    def bind(self) -> None:
        """Listens; who connects waits until `start`. Raises OSError: the address cannot be had."""
        self._listener = listen(self._host, self._requested_port, MAX_CONNECTIONS)
        self.port = self._listener.getsockname()[1]

    async def start(self) -> None:
        """Starts to serve."""
        if self._listener is None:
            raise RuntimeError("bind first")
        # The backlog is how many connections asyncio accepts in one turn, before any of them is counted.
        self._server = await asyncio.get_running_loop().create_server(
            self._new_connection, sock=self._listener, backlog=MAX_CONNECTIONS
        )

    def stop(self) -> None:
        """Stops, and cuts off who is connected."""
        if self._server is not None:
            self._server.close()
        elif self._listener is not None:
            self._listener.close()
        for connection in tuple(self._connections):
            connection.give_way()

    def _new_connection(self) -> "_Connection":
        return _Connection(self._room, self._connections, self._page, self._timeout_s)


class _Connection(asyncio.Protocol):
    """One connection, from which nothing is read once its request's head has come."""

    def __init__(self, room: ConnectionRoom, all_of_them: "set[_Connection]", page: Page, timeout_s: float) -> None:
        self._room = room
        self._all = all_of_them
        self._page = page
        self._timeout_s = timeout_s
        self._head = bytearray()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # of a TCP server
        """Takes a place: where there is none, the oldest connection gives way."""
        self._transport = transport
        self._deadline = asyncio.get_running_loop().call_later(self._timeout_s, transport.abort)
        self._all.add(self)
        self._room.enter(self)

    def data_received(self, data: bytes) -> None:
        """Takes in a part of the head; answers once it is whole."""
        if self._transport.is_closing():
            return
        self._head += data
        if len(self._head) > _MAX_HEAD_BYTES:
            self._transport.write(_refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))
            self._transport.close()
        elif _END_OF_HEAD in self._head:
            self._transport.write(_answer(bytes(self._head), self._page))
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gives the place back."""
        self._deadline.cancel()
        self._room.leave(self)
        self._all.discard(self)

    def give_way(self) -> None:
        """Ends at once, whatever the client has read."""
        self._transport.abort()


def _answer(head: bytes, page: Page) -> bytes:
    """Returns the answer to a request, given the head."""
    words = head.partition(b"\r\n")[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return _refusal(HTTPStatus.BAD_REQUEST)
    method, target, _ = words
    if target.partition(b"?")[0] != PATH.encode():
        return _refusal(HTTPStatus.NOT_FOUND)
    if method not in (b"GET", b"HEAD"):
        return _refusal(HTTPStatus.METHOD_NOT_ALLOWED, "allow: GET, HEAD\r\n")
    try:
        content = page()
    except Exception:
        _log.exception("metrics failed unexpectedly")
        return _refusal(HTTPStatus.INTERNAL_SERVER_ERROR)
    response_head = _response_head(HTTPStatus.OK, CONTENT_TYPE, len(content))
    return response_head if method == b"HEAD" else response_head + content


def _refusal(status: HTTPStatus, headers: str = "") -> bytes:
    content = f"{status.phrase}: metrics are at {PATH}\n".encode()
    return _response_head(status, _PLAIN, len(content), headers) + content


def _response_head(status: HTTPStatus, content_type: str, num_bytes: int, headers: str = "") -> bytes:
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {content_type}\r\ncontent-length: {num_bytes}\r\n"
        f"{headers}connection: close\r\n\r\n"
    ).encode()
