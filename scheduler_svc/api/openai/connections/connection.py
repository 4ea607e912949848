"""One HTTP connection: uvicorn's, with a place among the others, a time in which headers must come, and errors in JSON.

    waits for headers ──they came──▶ waits for a body ──it came──▶ works ──answered──▶ waits for headers ...
      │                                └── answered before it came: passes the rest over, then waits for headers
      └── headers are late, or no HTTP, or no place: refused, then closed once the client has heard why

Knows nothing of what is asked.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from scheduler_svc.api.openai.connections.limits import HttpLimits
from scheduler_svc.api.openai.wire.errors import (
    HeadersTooSlow,
    NoHttp,
    TooManyConnections,
    error_response,
)
from scheduler_svc.errors import ServiceError
from scheduler_svc.process.connection_room import ConnectionRoom

# A socket that is closed with something unread in it takes the answer back from a client that still sends.
_LINGER_S = 1.0


class _Stage(Enum):
    """How far a request has come."""

    HEADERS = auto()
    BODY = auto()
    WORK = auto()
    REST_OF_BODY = auto()  # answered already


class Connection(H11Protocol):
    """One connection.

    Args:
        room: Where it has its place.
        limits: How long a client may take for headers, and for the part of a body that nobody reads.
        uvicorn: What the server gives to each connection.
    """

    def __init__(self, room: ConnectionRoom, limits: HttpLimits, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._room = room
        self._limits = limits
        self._deadline: asyncio.TimerHandle | None = None
        self._stage = _Stage.HEADERS
        self._was_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the base class
        """Takes a place, or answers that there is none."""
        super().connection_made(transport)
        if self._room.enter(self):
            self._set_deadline(self._limits.header_timeout_s, self._headers_are_late)
        elif self._room.turn_away(self):
            self._refuse(TooManyConnections())
        else:
            self._answer(TooManyConnections())
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Takes in a part of a request."""
        if self._was_refused:
            return
        super().data_received(data)
        self._note_stage()
        if self._stage is _Stage.HEADERS and self._deadline is None and not self.transport.is_closing():
            self._set_deadline(self._limits.header_timeout_s, self._headers_are_late)

    def on_response_complete(self) -> None:
        """Waits for the next request."""
        super().on_response_complete()
        self._note_stage()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gives the place back."""
        self._room.leave(self)
        self._clear_deadline()
        super().connection_lost(exc)

    def give_way(self) -> None:
        """Closes the connection, on which no request runs, at once: a client that does not read would hold it open."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP; the base class calls it."""
        self._refuse(NoHttp())

    def _note_stage(self) -> None:
        """Notes how far a request has come."""
        if self._was_refused:
            return
        if self.transport.is_closing():  # once all is sent, which a client that does not read puts off
            self._room.note_waiting(self)
            return
        before, self._stage = self._stage, self._stage_now()
        if self._stage is before:
            return
        self._clear_deadline()
        if self._stage is not _Stage.HEADERS:
            self._room.note_working(self)
        if self._stage is not _Stage.WORK:  # nothing runs before a body's end: its sender waits too, though from now on
            self._room.note_waiting(self)
        if self._stage is _Stage.REST_OF_BODY:
            self._set_deadline(self._limits.body_timeout_s, self.give_way)

    def _stage_now(self) -> _Stage:
        theirs = self.conn.their_state
        if theirs is h11.IDLE:
            return _Stage.HEADERS
        if theirs is not h11.SEND_BODY:
            return _Stage.WORK
        return _Stage.REST_OF_BODY if self.conn.our_state is h11.DONE else _Stage.BODY

    def _set_deadline(self, time_s: float, then: Callable[[], None]) -> None:
        self._clear_deadline()
        self._deadline = self.loop.call_later(time_s, then)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _headers_are_late(self) -> None:
        some_came = bool(self.conn.trailing_data[0])
        if some_came:
            self._refuse(HeadersTooSlow(self._limits.header_timeout_s))
        else:
            self.give_way()

    def _refuse(self, error: ServiceError) -> None:
        """Answers with an error in place of the application, and closes the connection shortly afterwards."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()  # an answer is under way
            return
        self._answer(error)
        self._was_refused = True
        if self.transport.can_write_eof():  # TLS can't
            with contextlib.suppress(OSError):  # the client is gone
                self.transport.write_eof()
        self._room.note_waiting(self)
        self._set_deadline(_LINGER_S, self.transport.abort)

    def _answer(self, error: ServiceError) -> None:
        response = error_response(error)
        headers = [*response.raw_headers, (b"x-request-id", uuid.uuid4().hex.encode())]
        status = response.status_code
        head = h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])
        for part in (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(part) or b"")
