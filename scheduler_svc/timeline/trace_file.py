"""Writes trace events to a file from a thread of its own: whoever adds one never waits for a disk.

The file is a JSON array with one event a line. Each write ends with a whole event, and trace viewers do without the
closing bracket, so that the file opens even after the process was killed. Memory is bounded: events beyond a limit are
lost, counted and logged, and so is what comes after the file has reached its size.
"""

import json
import logging
import threading
from collections import deque
from pathlib import Path
from typing import BinaryIO, Self

from scheduler_svc.timeline.events import Event

_log = logging.getLogger(__name__)

FLUSH_S = 0.25
MAX_PENDING = 65_536
_BATCH = 512  # events a write, so that one of them holds the interpreter for few milliseconds


class TraceFile:
    """A trace under way; a context manager. An existing file is replaced.

    Args:
        path: Where to write.
        max_bytes: Size at which recording ends.
        max_pending: Events that may wait to be written.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path, max_bytes: int, max_pending: int = MAX_PENDING) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._max_pending = max_pending
        self._file: BinaryIO = path.open("wb", buffering=0)
        self._num_bytes = 0
        self._pending: deque[Event] = deque()
        self._num_lost = 0
        self._is_recording = True
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trace-file", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def num_lost(self) -> int:
        """Events that found no room among those waiting to be written."""
        return self._num_lost

    def add(self, event: Event) -> None:
        """Takes an event to be written soon; it must not change afterwards."""
        if not self._is_recording:
            return
        if len(self._pending) < self._max_pending:
            self._pending.append(event)
            return
        if not self._num_lost:
            _log.warning("trace_events_lost path=%s pending=%d", self._path, self._max_pending)
        self._num_lost += 1

    def close(self) -> None:
        """Writes what waits, and ends the array."""
        self._closing.set()
        self._thread.join()
        self._file.close()

    def _run(self) -> None:
        try:
            self._num_bytes = self._file.write(b"[")
            while not self._closing.wait(FLUSH_S):
                self._write_pending()
            self._write_pending()
            self._file.write(b"\n]\n")
        except OSError as error:
            self._stop("trace_failed path=%s error=%r", self._path, str(error))
        _log.info("trace_closed path=%s bytes=%d lost=%d", self._path, self._num_bytes, self._num_lost)

    def _write_pending(self) -> None:
        while self._pending and self._is_recording:
            lines: list[str] = []
            for _ in range(min(_BATCH, len(self._pending))):
                separator = ",\n" if self._num_bytes > 1 or lines else "\n"
                lines.append(separator + json.dumps(self._pending.popleft(), separators=(",", ":")))
            chunk = "".join(lines).encode()
            if self._num_bytes + len(chunk) > self._max_bytes:
                self._stop("trace_full path=%s max_bytes=%d: recording has ended", self._path, self._max_bytes)
                return
            self._file.write(chunk)
            self._num_bytes += len(chunk)

    def _stop(self, message: str, *values: object) -> None:
        self._is_recording = False
        self._pending.clear()
        _log.warning(message, *values)
