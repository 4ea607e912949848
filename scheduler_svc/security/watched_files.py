"""Keeps what files say up to date: changed ones count within a second, broken ones never.

asked ──a second has passed──▶ looks at times and sizes ──changed──▶ reads ──broken──▶ keeps the old, logs one line

Knows nothing of what they say.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

_log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 1.0

Content = TypeVar("Content")
# What changes when a file is edited or replaced; None: it can't be looked at.
_Signature = tuple[int, int, int, int] | None


class WatchedFiles(Generic[Content]):
    """Files that make sense together. Threads may share it.

    Args:
        name: What they are, for the log.
        paths: Where they are.
        read: Reads them; raises `Refused` where they can't be used, which is raised on here alone.
        refused: What it raises.
    """

    def __init__(self, name: str, paths: Sequence[Path], read: Callable[[], Content], refused: type[Exception]) -> None:
        self._name = name
        self._paths = paths
        self._read = read
        self._refused = refused
        self._lock = threading.Lock()
        self._signatures = self._look()
        self._content = read()
        self._next_check_s = -float("inf")

    def content(self, now_s: float) -> Content:
        """Returns what they say, as they stand if they can be used."""
        with self._lock:
            if now_s >= self._next_check_s:
                self._next_check_s = now_s + CHECK_INTERVAL_S
                self._take_changes()
            return self._content

    def _take_changes(self) -> None:
        signatures = self._look()
        if signatures == self._signatures:
            return
        self._signatures = signatures
        files = " ".join(map(str, self._paths))
        try:
            self._content = self._read()
        except self._refused as refusal:
            _log.error("%s_kept files=%r error=%r: those of before still count", self._name, files, str(refusal))
        else:
            _log.info("%s_read files=%r", self._name, files)

    def _look(self) -> list[_Signature]:
        return [_signature(path) for path in self._paths]


def _signature(path: Path) -> _Signature:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size, facts.st_ino, facts.st_mode
