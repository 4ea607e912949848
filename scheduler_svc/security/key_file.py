"""Reads a file of API keys, which others may neither read nor change; an edited one counts within a second."""

import os
import stat
from functools import partial
from pathlib import Path

from scheduler_svc.security.key_entries import KeyEntry, KeysRefused, read_entries
from scheduler_svc.security.watched_files import WatchedFiles

MAX_FILE_BYTES = 4 << 20
_FORBIDDEN = stat.S_IWGRP | stat.S_IRWXO


class KeyFile:
    """A file of API keys.

    Args:
        path: Where it is.

    Raises:
        KeysRefused: It can't be read, others can read or change it, or it does not say what keys there are.
    """

    def __init__(self, path: Path) -> None:
        self._file = WatchedFiles("api_keys", (path,), partial(_read, path), KeysRefused)

    def entries(self, now_s: float) -> tuple[KeyEntry, ...]:
        """Returns the entries, those of the file as it stands if it can be used."""
        return self._file.content(now_s)


def _read(path: Path) -> tuple[KeyEntry, ...]:
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            _check(path, facts)
            text = file.read().decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise KeysRefused(f"got {path}, which can't be read: {reason}") from None
    try:
        return read_entries(text)
    except KeysRefused as refusal:
        raise KeysRefused(f"{path}: {refusal}") from None


def _check(path: Path, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_FILE_BYTES:
        raise KeysRefused(f"got {path}, allowed is a file of at most {MAX_FILE_BYTES >> 20} MiB")
    if facts.st_mode & _FORBIDDEN:
        raise KeysRefused(
            f"got {path}, which others can read or change (mode {stat.S_IMODE(facts.st_mode):04o}); run: "
            f"chmod g-w,o-rwx {path}"
        )
