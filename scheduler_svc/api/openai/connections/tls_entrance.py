"""Where clients of HTTP begin to speak TLS, each on a connection that does not count as one before it has done so.

    connected ──speaks TLS──▶ a connection of the server's
      └── says nothing, nonsense, or is one too many: cut off

asyncio's own way would keep a silent client for a minute, uncounted. Knows nothing of what is said later.
"""

import asyncio
from collections.abc import Callable

from scheduler_svc.process.connection_room import ConnectionRoom
from scheduler_svc.security.tls import Certificates

# Each holds a descriptor, and lasts for milliseconds where the client means it; the oldest gives way to a new one.
MOST_BEGINNING = 128
_GOODBYE_S = 1.0  # what a client has to agree to the end of a connection


class TlsEntrance:
    """Speaks TLS with new clients.

    Args:
        certificates: Those that it shows and asks for, as they are when a client connects.
        timeout_s: Seconds that a client has to begin.
        new_connection: Makes what goes on with a client that has.
    """

    def __init__(
        self, certificates: Certificates, timeout_s: float, new_connection: Callable[[], asyncio.Protocol]
    ) -> None:
        self._certificates = certificates
        self._timeout_s = timeout_s
        self._new_connection = new_connection
        self._room = ConnectionRoom("tls", MOST_BEGINNING)
        self._doors: set[_Door] = set()

    def door(self) -> asyncio.Protocol:
        """Returns what a new client is met with."""
        return _Door(self)

    def close(self) -> None:
        """Cuts off who has not begun yet."""
        for door in tuple(self._doors):
            door.give_way()

    def enter(self, door: "_Door") -> bool:
        """Takes in a client; returns False if there is no place."""
        self._doors.add(door)
        return self._room.enter(door)

    def leave(self, door: "_Door") -> None:
        """Gives a client's place back."""
        self._doors.discard(door)
        self._room.leave(door)

    async def speak(self, transport: asyncio.Transport, door: "_Door") -> asyncio.Transport | None:
        """Returns the encrypted transport; None if the client does not get that far."""
        try:
            return await asyncio.get_running_loop().start_tls(
                transport,
                door,
                self._certificates.current.context,
                server_side=True,
                ssl_handshake_timeout=self._timeout_s,
                ssl_shutdown_timeout=_GOODBYE_S,
            )
        except OSError:  # of which the errors of TLS are some
            return None

    def hand_over(self, transport: asyncio.Transport, early: bytes) -> None:
        """Lets the server's own connection go on, with what has come already."""
        connection = self._new_connection()
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if early:
            connection.data_received(early)


class _Door(asyncio.Protocol):
    """One client that begins to speak TLS."""

    def __init__(self, entrance: TlsEntrance) -> None:
        self._entrance = entrance
        self._early = bytearray()  # what comes between the handshake's end and the handing over
        self._is_lost = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # of a TCP server
        """Takes a place: where there is none, the oldest that has not begun gives way."""
        self._transport = transport
        self._entrance.enter(self)
        self._beginning = asyncio.get_running_loop().create_task(self._begin(), name="tls-handshake")

    def data_received(self, data: bytes) -> None:
        """Keeps what comes early."""
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        """Notes that the client is gone."""
        self._is_lost = True

    def give_way(self) -> None:
        """Ends at once."""
        self._transport.abort()

    async def _begin(self) -> None:
        encrypted = await self._entrance.speak(self._transport, self)
        self._entrance.leave(self)
        if encrypted is None or self._is_lost:
            self._transport.abort()
        else:
            self._entrance.hand_over(encrypted, bytes(self._early))
