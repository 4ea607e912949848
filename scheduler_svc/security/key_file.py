"""Keeps the entries of a file of API keys up to date: an edited file counts within a second, a broken one never.

asked ──a second has passed──▶ looks at time and size ──changed──▶ reads ──broken──▶ keeps the old, logs one line
"""

import logging
import os
import stat
from pathlib import Path

from scheduler_svc.security.key_entries import KeyEntry, KeysRefused, read_entries

_log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 1.0
MAX_FILE_BYTES = 4 << 20
_FORBIDDEN = stat.S_IWGRP | stat.S_IRWXO

# What changes when a file is edited or replaced; None: it can't be looked at.
_Signature = tuple[int, int, int, int] | None


class KeyFile:
    """A file of API keys.

    Args:
        path: Where it is.

    Raises:
        KeysRefused: It can't be read, others can read or change it, or it does not say what keys there are.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._signature = _signature(path)
        self._entries = _read(path)
        self._next_check_s = -float("inf")

    def entries(self, now_s: float) -> tuple[KeyEntry, ...]:
        """Returns the entries, those of the file as it stands if it can be used."""
        if now_s >= self._next_check_s:
            self._next_check_s = now_s + CHECK_INTERVAL_S
            self._look()
        return self._entries

    def _look(self) -> None:
        signature = _signature(self._path)
        if signature == self._signature:
            return
        self._signature = signature
        try:
            self._entries = _read(self._path)
        except KeysRefused as refusal:
            _log.error("api_keys_kept file=%s error=%r: the keys of before still count", self._path, str(refusal))
        else:
            _log.info("api_keys_read file=%s num=%d", self._path, len(self._entries))


def _signature(path: Path) -> _Signature:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size, facts.st_ino, facts.st_mode


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
