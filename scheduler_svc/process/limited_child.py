"""A child process that works on what strangers wrote, and the socket that is its standard input and output.

What it may take it limits itself, by `child_side`. Knows nothing of what it is told.
"""

import asyncio
import os
import socket
import subprocess
import sys
import weakref
from collections.abc import Sequence

from scheduler_svc.process import frames
from scheduler_svc.process.frames import Frame

# What an interpreter needs to find its modules, and a template to tell the date; keys and passwords stay here.
_ENVIRONMENT = frozenset(
    ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "LC_TIME", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "PYTHONPATH", "TZ")
)
_PART_BYTES = 1 << 18


def python_module(name: str) -> tuple[str, ...]:
    """Returns the command that runs a module in a child."""
    return sys.executable, "-B", "-m", name


class LimitedChild:
    """One life of the process; ended when nobody holds it.

    Args:
        command: Starts it; this process's id is its first argument.
        arguments: The others.
        descriptors: Files that are handed over to it.
    """

    def __init__(self, command: Sequence[str], *arguments: object, descriptors: Sequence[int] = ()) -> None:
        self._socket, theirs = socket.socketpair()
        environment = {name: value for name, value in os.environ.items() if name in _ENVIRONMENT}
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*command, *map(str, (os.getpid(), *arguments))],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    process_group=0,
                    env=environment,
                    pass_fds=descriptors,
                )
        except BaseException:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self._end = weakref.finalize(self, _end, self._process, self._socket)
        self._is_asked = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def exchange(self, frame: Frame | None) -> Frame:
        """Sends a frame, if there is one, and returns the next that comes.

        Raises:
            EOFError: None comes.
            OSError: The process is gone.
            FrameRefused: What came is no frame.
        """
        self._is_asked = True
        try:
            if frame is not None:
                await asyncio.get_running_loop().sock_sendall(self._socket, frames.written(frame))
            return frames.read(await self._receive_body())
        finally:
            self._is_asked = False

    async def _receive_body(self) -> bytes:
        """Returns the body of the one frame that is on its way: a short one comes in one piece, with its head."""
        loop, received = asyncio.get_running_loop(), bytearray()
        num_bytes = frames.HEAD_BYTES
        while len(received) < num_bytes:
            part = await loop.sock_recv(self._socket, _PART_BYTES)
            if not part:
                raise EOFError
            received += part
            if len(received) >= frames.HEAD_BYTES:
                num_bytes = frames.HEAD_BYTES + frames.body_bytes(received[: frames.HEAD_BYTES])
        return bytes(received[frames.HEAD_BYTES :])

    def kill(self) -> None:
        """Ends the process; the socket stays for whoever waits at it, and hears the end there."""
        if self._is_asked:
            self._process.kill()
        else:
            self.end()

    def end(self) -> int:
        """Ends the process and returns its exit code."""
        self._end()
        return self._process.returncode


def _end(process: "subprocess.Popen[bytes]", connection: socket.socket) -> None:
    connection.close()
    process.kill()
    process.wait()
