"""Keeps how long tools took in a directory, so that a restarted service goes on with what it knew.

    DIR/                   mode 0700 where it was made here
        owner              locked for as long as the service lives, however that ends
        tool-times.jsonl   the schema, then a tool and its durations a line; replaced as a whole
        tool-times.damaged what could not be read, aside: it is statistics, so the service begins anew

A disk is waited for in a thread. One that fails is logged, and tried again.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
from collections import abc
from pathlib import Path
from typing import Self

from scheduler_svc.core.sessions import ToolTimes
from scheduler_svc.core.sessions.tool_times import ToolRecord
from scheduler_svc.process.rarely import Rarely

_log = logging.getLogger(__name__)

SCHEMA = "qllm-tool-times/1"
SAVE_INTERVAL_S = 60.0
_MAX_BYTES = 1 << 25
_OWNER, _NAME, _NEW, _DAMAGED = "owner", "tool-times.jsonl", "tool-times.new", "tool-times.damaged"


class StateDirectoryRefused(Exception):
    """The directory can't be used; the message says why."""


class ToolTimesFile:
    """An asynchronous context manager, in which what is learned is saved: once a minute if it changed, and at the end.

    Args:
        directory: Where to keep it; made if its parent exists.
        times: What is kept; it is told what the directory holds.
        interval_s: How often it is saved at most.

    Raises:
        StateDirectoryRefused: The directory can't be made, written to or locked.
    """

    def __init__(self, directory: Path, times: ToolTimes, interval_s: float = SAVE_INTERVAL_S) -> None:
        self._directory = directory
        self._times = times
        self._interval_s = interval_s
        self._closing = asyncio.Event()
        self._rarely = Rarely()
        self._owner = _own(directory)
        self._load()
        self._num_saved = times.num_recorded

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self._run(), name="tool-times")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._closing.set()
        try:
            await self.task
        finally:
            os.close(self._owner)

    async def _run(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._interval_s)
            await self._save()
        await self._save()  # it may have been closed before it began

    async def _save(self) -> None:
        num_recorded = self._times.num_recorded
        if num_recorded == self._num_saved:
            return
        try:
            await asyncio.to_thread(_write, self._directory, self._times.snapshot())
        except OSError as error:
            if self._rarely.is_due():
                _log.error("tool_times_not_saved path=%s reason=%r", self._directory / _NAME, error.strerror)
        else:
            self._num_saved = num_recorded

    def _load(self) -> None:
        path = self._directory / _NAME
        try:
            self._times.restore(_read(path))
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as error:
            with contextlib.suppress(OSError):  # it can't be moved either: the next save replaces it
                path.replace(self._directory / _DAMAGED)
            _log.error("tool_times_damaged path=%s reason=%r", path, str(error))
        else:
            _log.info("tool_times_read path=%s num_tools=%d", path, self._times.num_tools)


def _own(directory: Path) -> int:
    """Makes and locks the directory; returns the descriptor that holds the lock."""
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        owner = os.open(directory / _OWNER, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateDirectoryRefused(f"got {directory}, which cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(owner)
        raise StateDirectoryRefused(f"got {directory}, which another service uses") from None
    return owner


def _read(path: Path) -> list[object]:
    """Returns the records of a file; raises ValueError if it holds something else."""
    if (num_bytes := path.stat().st_size) > _MAX_BYTES:
        raise ValueError(f"got {num_bytes} bytes, allowed are {_MAX_BYTES}")
    first, *records = map(json.loads, path.read_text().splitlines() or ["null"])
    if first != {"schema": SCHEMA}:
        raise ValueError(f"got {str(first)[:80]!r} in its first line, allowed is {SCHEMA}")
    return records


def _write(directory: Path, records: abc.Sequence[ToolRecord]) -> None:
    """Replaces the file, so that whoever reads it finds the old or the new one whole."""
    new = directory / _NEW
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(new, flags, 0o600), "wb", buffering=0) as file:
        _write_line(file.fileno(), {"schema": SCHEMA})
        for tool, seconds in records:  # a line at a time, as making JSON holds the interpreter
            _write_line(file.fileno(), (tool, [round(each, 3) for each in seconds]))
        os.fsync(file.fileno())
    new.replace(directory / _NAME)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_line(descriptor: int, content: object) -> None:
    rest = memoryview(json.dumps(content).encode() + b"\n")
    while rest:
        rest = rest[os.write(descriptor, rest) :]
