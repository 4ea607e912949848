"""Owns the HTTP server: on which address it listens, how connections are kept, and how it stops.

It runs on the loop of the service as one task, leaves signals to the service, and writes no access log.
"""

import asyncio
import contextlib
import math
import socket
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import uvicorn
from qllm.addresses import join
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from scheduler_svc.api.backend import Backend
from scheduler_svc.api.listening import Listening
from scheduler_svc.api.openai.app import make_app
from scheduler_svc.api.openai.batches.file_routes import UPLOADS
from scheduler_svc.api.openai.connections.base_path import BasePath
from scheduler_svc.api.openai.connections.connection import Connection
from scheduler_svc.api.openai.connections.envelope import Envelope
from scheduler_svc.api.openai.connections.guard import RequestGuard
from scheduler_svc.api.openai.connections.host_check import HostCheck
from scheduler_svc.api.openai.connections.key_check import KeyCheck
from scheduler_svc.api.openai.connections.limits import DEFAULT_LIMITS, HttpLimits
from scheduler_svc.api.openai.connections.page_check import PageCheck
from scheduler_svc.api.openai.connections.tls_entrance import TlsEntrance
from scheduler_svc.process.connection_room import ConnectionRoom
from scheduler_svc.process.listening import listen
from scheduler_svc.security.tls import Certificates

_BACKLOG = 2048
# asyncio accepts as many connections in one turn as its backlog is, before any of them is counted.
_ACCEPTS_PER_TURN = 100
# asyncio sets TCP_NODELAY itself, but on sockets that name TCP as their protocol only, which none of `create_server`
# does. Without it an answer's second packet waits up to 40 ms for the client to acknowledge the first.
# A client whose machine vanished holds its connection until it is noticed: 20 s of silence and two probes; or, with
# data on its way that nobody takes, however alive it is, as long as a slow reader may.
_SOCKET_OPTIONS = (
    (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 20),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 5),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 2),
)


class OpenAiServer:
    """The HTTP server.

    Args:
        backend: What it serves.
        listening: Where, and whom it lets in.
        grace_s: Seconds that running requests get when the server stops.
        limits: What clients may take.
        cors_origins: Web pages of these origins may ask; "*" for all.
    """

    def __init__(
        self,
        backend: Backend,
        listening: Listening,
        grace_s: float = 0.0,
        limits: HttpLimits = DEFAULT_LIMITS,
        cors_origins: Sequence[str] = (),
    ) -> None:
        self._listening = listening
        self._grace_s = grace_s
        self._limits = limits
        app = make_app(backend, limits.comment_interval_s)
        self._guard = RequestGuard(app, limits.body_timeout_s, UPLOADS)
        self._app = _protected(self._guard, app.routes, listening, cors_origins)
        self._room = ConnectionRoom("http", limits.max_connections)
        self._listener: socket.socket | None = None
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self.port = listening.port

    @property
    def address(self) -> str:
        """The address that is listened on, with the real port once bound."""
        return join(self._listening.host, self.port)

    @property
    def num_running(self) -> int:
        """Requests that are worked on now."""
        return self._guard.num_running

    def bind(self) -> None:
        """Listens; who connects waits until `start`. Raises OSError: the address cannot be had."""
        self._listener = listen(self._listening.host, self._listening.port, _BACKLOG)
        self.port = self._listener.getsockname()[1]
        most = (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", round(self._limits.slow_reader_s * 1e3))
        for level, name, value in (*_SOCKET_OPTIONS, most):  # connections inherit them
            if hasattr(socket, name):
                self._listener.setsockopt(level, getattr(socket, name), value)

    def start(self) -> asyncio.Task[None]:
        """Starts to serve; returns the task, which ends after `stop` and not before."""
        if self._listener is None:
            raise RuntimeError("bind first")
        config = uvicorn.Config(
            self._app,
            http=partial(Connection, self._room, self._limits),  # type: ignore[arg-type]  # called, no more
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",  # its warnings are of what clients send
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=_ACCEPTS_PER_TURN,
            timeout_keep_alive=self._limits.keep_alive_s,
            # The guard ends requests after the grace; this is for connections whose client does not read to the end.
            timeout_graceful_shutdown=math.ceil(self._grace_s) + 1,
        )
        self._server = _Server(config, self._listening.certificates, self._limits.header_timeout_s)
        self._serving = asyncio.create_task(self._server.serve([self._listener]), name="http-server")
        return self._serving

    async def stop(self, grace_s: float | None = None) -> None:
        """Stops: new requests are refused, running ones get the grace to end, then end with an error.

        May be called again, when the first call was cancelled, with less grace.
        """
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._guard.stop(self._grace_s if grace_s is None else grace_s)
            self._server.force_exit = grace_s == 0
            await asyncio.wait((self._serving,))
        if self._listener is not None:
            self._listener.close()


def _protected(
    guard: RequestGuard, routes: Sequence[BaseRoute], listening: Listening, cors_origins: Sequence[str]
) -> ASGIApp:
    """Returns the application as it is on an address: each layer stands before what is inside of it."""
    app: ASGIApp = guard
    # A page in a browser has no key.
    app = PageCheck(app, cors_origins) if listening.gate is None else KeyCheck(app, listening.gate)
    if listening.names is not None:
        app = HostCheck(app, listening.names)
    return Envelope(BasePath(app, routes), cors_origins)


class _Server(uvicorn.Server):
    """Leaves signals to the service, and lets many connections wait to be accepted, though not all in one turn.

    Args:
        config: The server's settings.
        certificates: Those that it shows and asks for; None: it speaks plainly.
        handshake_timeout_s: Seconds that a client has to begin to speak TLS.
    """

    def __init__(self, config: uvicorn.Config, certificates: Certificates | None, handshake_timeout_s: float) -> None:
        super().__init__(config)
        self._entrance = (
            None if certificates is None else TlsEntrance(certificates, handshake_timeout_s, self._new_connection)
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to accept."""
        loop = asyncio.get_running_loop()
        meet = self._new_connection if self._entrance is None else self._entrance.door
        self.servers = []
        for listener in sockets or ():
            self.servers.append(await loop.create_server(meet, sock=listener, backlog=self.config.backlog))
            listener.listen(_BACKLOG)  # asyncio has set it to its own
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops to accept, and ends what is left."""
        if self._entrance is not None:
            self._entrance.close()
        await super().shutdown(sockets)

    def _new_connection(self) -> asyncio.Protocol:
        make: Any = self.config.http_protocol_class
        return cast(asyncio.Protocol, make(config=self.config, server_state=self.server_state, app_state={}))
