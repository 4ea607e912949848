"""Counts frames that were dropped, by reason, and logs them so that a flood of frames is no flood of log lines."""

import logging
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

_log = logging.getLogger(__name__)


class DroppedFrames:
    """Counters that only rise."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    @property
    def counts(self) -> Mapping[str, int]:
        """Frames dropped so far, by reason."""
        return MappingProxyType(self._counts)

    def add(self, reason: str, detail: object) -> None:
        """Counts one frame, and logs the 1st, 2nd, 4th, 8th, ... of its reason."""
        self._counts[reason] += 1
        count = self._counts[reason]
        if count & (count - 1) == 0:
            _log.warning("frame_dropped reason=%s count=%d detail=%r", reason, count, str(detail))
