"""Keeps a directory to one process: a lock on a file in it, which the system takes back when the process is gone."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

_FILE_NAME = "in-use"


class InUse(Exception):
    """Another process uses the directory."""


@contextlib.contextmanager
def sole_use(directory: Path) -> Iterator[None]:
    """Keeps others from the directory; raises InUse, or OSError if nothing can be written there."""
    descriptor = os.open(directory / _FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse from None
        yield
    finally:
        os.close(descriptor)  # and with it the lock
