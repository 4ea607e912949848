"""Keeps what a process reports from ending or holding up the process itself.

    logging, tracebacks, warnings ──▶ sys.stderr ──▶ descriptor 2, or nothing where nobody takes it

A reader that went away, a disk that is full, or a pipe whose reader has stopped costs lines of the log and nothing
else; how many, the log says once it is taken again.
"""

import io
import os
import select
import sys
import threading

_STDERR = 2
_PIPE_BUF = select.PIPE_BUF  # a pipe that is ready takes so much without waiting
_PATIENCE_MS = 100


class UnfailingFile(io.RawIOBase):
    """A descriptor to write to, which never fails and waits once, briefly, for a reader that does not keep up.

    Args:
        descriptor: Where to write; it stays open.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._num_lost = 0
        self._lock = threading.Lock()  # logging has one of its own; others write too

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether somebody reads along."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # as io's own
        """Writes all of it or drops the rest; says that all was written."""
        with self._lock:
            told = b"%d writes to this log were lost\n" % self._num_lost if self._num_lost else b""
            self._num_lost = 0 if self._put(told + data) else self._num_lost + 1
        return len(data)

    def _put(self, data: bytes) -> bool:
        view = memoryview(data)
        try:
            while view:
                if not self._poll.poll(0 if self._num_lost else _PATIENCE_MS):
                    return False
                view = view[os.write(self._descriptor, view[:_PIPE_BUF]) :]
        except OSError:  # nobody reads any more, no space left, or not waiting was asked for
            return False
        return True


def report_without_failing() -> None:
    """Puts a stream that can't fail in place of sys.stderr, and something behind standard descriptors that are closed.

    Without the latter the next socket would become descriptor 2, and get what libraries written in C report.
    """
    for descriptor in range(_STDERR + 1):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which this one is
            os.set_inheritable(opened, True)
    sys.stderr = io.TextIOWrapper(
        UnfailingFile(_STDERR), encoding="utf-8", errors="backslashreplace", write_through=True
    )
