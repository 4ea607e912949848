"""Owns the folder in the temporary directory that holds the control socket, and removes those of killed services.

    $TMPDIR/qllm-XXXXXXXX/   mode 0700
        owner                locked for as long as its service lives, however that ends
        control              the socket

Only what is unmistakably left over is removed: a real folder of this user's, of mode 0700, whose `owner` nobody locks;
and of its content those two names alone.
"""

import contextlib
import fcntl
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scheduler_svc.channel.endpoint import MAX_IPC_PATH_BYTES, EndpointRefused

_log = logging.getLogger(__name__)

_PREFIX = "qllm-"
_OWNER, _CONTROL = "owner", "control"


@contextlib.contextmanager
def private_endpoint() -> Iterator[str]:
    """Makes a control endpoint that only this user can reach, for as long as the context lasts.

    Raises:
        EndpointRefused: There is no temporary directory that can be used, or its path is too long for a socket.
    """
    try:
        parent = Path(tempfile.gettempdir())
        _remove_stale(parent)
        directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))  # mode 0700
    except OSError as error:
        raise EndpointRefused(f"TMPDIR: no directory can be made there: {error.strerror}") from error
    try:
        if (num_bytes := len(os.fsencode(directory / _CONTROL))) > MAX_IPC_PATH_BYTES:
            raise EndpointRefused(
                f"TMPDIR: {parent} is too long for a control socket in it: got {num_bytes} bytes, allowed are "
                f"{MAX_IPC_PATH_BYTES}; set TMPDIR to a shorter path, or give --control-endpoint ipc://PATH"
            )
        with _owned(directory):
            yield f"ipc://{directory / _CONTROL}"
    finally:
        _remove(directory)


@contextlib.contextmanager
def _owned(directory: Path) -> Iterator[None]:
    """Locks the folder's `owner`, which gets its name once it is locked, so that nobody finds it unlocked."""
    unnamed = directory / f"{_OWNER}.new"
    with unnamed.open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        unnamed.rename(directory / _OWNER)
        yield


def _remove_stale(parent: Path) -> None:
    """Removes the folders in `parent` whose services ended without doing so."""
    for directory in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # it went away meanwhile, or is not ours
            facts = directory.lstat()
            is_private = stat.S_ISDIR(facts.st_mode) and stat.S_IMODE(facts.st_mode) == stat.S_IRWXU
            if not is_private or facts.st_uid != os.geteuid():
                continue
            with os.fdopen(os.open(directory / _OWNER, os.O_RDONLY | os.O_NOFOLLOW)) as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its service lives
                _remove(directory)
                _log.info("stale_directory_removed path=%s", directory)


def _remove(directory: Path) -> None:
    for name in (_CONTROL, _OWNER):
        (directory / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody put something else there: it stays
        directory.rmdir()
