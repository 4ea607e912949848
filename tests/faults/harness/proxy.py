"""Stands between a client and a server, and cuts their connections or holds back what they send when told to.

Passes bytes of any protocol, over TCP or Unix sockets. An address is HOST:PORT, or the path of a socket.
"""

import asyncio
import contextlib
import socket
import struct
from typing import Self

_CHUNK_BYTES = 1 << 16
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset and drops what is on its way
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """Listens on one address and connects to another for each connection.

    Args:
        listens_on: Its address; with port 0 the system chooses one.
        target: Where the server listens, when a client comes.
    """

    def __init__(self, listens_on: str, target: str) -> None:
        self._listens_on = listens_on
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()

    async def __aenter__(self) -> Self:
        """Begins to listen."""
        if self._listens_on.startswith("/"):
            self._server: asyncio.Server = await asyncio.start_unix_server(self._accept, self._listens_on)
        else:
            host, _, port = self._listens_on.rpartition(":")
            self._server = await asyncio.start_server(self._accept, host, int(port))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ends everything."""
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def address(self) -> str:
        """Where it listens."""
        name = self._server.sockets[0].getsockname()
        return name if isinstance(name, str) else f"{name[0]}:{name[1]}"

    @property
    def num_connections(self) -> int:
        """Connections that are open."""
        return len(self._writers) // 2

    def cut(self) -> None:
        """Breaks every connection at once; new ones are taken as before."""
        self._flows.set()
        for writer in tuple(self._writers):
            _reset(writer)

    def hold(self) -> None:
        """Passes nothing on any more, and keeps connections open."""
        self._flows.clear()

    def release(self) -> None:
        """Passes on again, what was held back first."""
        self._flows.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            far_reader, far_writer = await self._connect()
        except OSError:  # nobody listens there now
            _reset(writer)
            return
        finally:
            self._tasks.discard(task)
        self._writers |= {writer, far_writer}
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            pump = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(pump)
            pump.add_done_callback(self._tasks.discard)

    async def _connect(self) -> Ends:
        if self._target.startswith("/"):
            return await asyncio.open_unix_connection(self._target)
        host, _, port = self._target.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Carries one direction of a connection until either end is gone."""
        with contextlib.suppress(OSError):
            while chunk := await source.read(_CHUNK_BYTES):
                await self._flows.wait()
                sink.write(chunk)
                await sink.drain()
        self._writers.discard(sink)
        sink.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    end = writer.get_extra_info("socket")
    if end is not None and end.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
