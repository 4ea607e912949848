"""Tells whether a process, or any that it has started, does anything: computes, reads, or gets pages from a disk.

What was counted is compared with what was counted before; of what the numbers stand for nothing need be known. A
process that waits for a lock, or that was stopped, counts nothing; one that loads a model from a slow disk counts at
every piece that comes.
"""

from pathlib import Path

Counts = frozenset[tuple[int, ...]]


class Standstill:
    """How often in a row somebody has looked and found that nothing was done.

    Looks are counted and not seconds: a time in which this process itself was stopped is nobody else's standstill.
    """

    def __init__(self) -> None:
        self._counts: Counts | None = None
        self._num_looks = 0

    def look(self, counts: Counts) -> int:
        """Returns how many looks ago the counts became what they are."""
        self._num_looks = self._num_looks + 1 if counts == self._counts else 0
        self._counts = counts
        return self._num_looks

    def ends(self) -> None:
        """Takes in a sign of life of another kind."""
        self._num_looks = 0


def counts_of(pid: int) -> Counts:
    """Returns what the system counts of a process and all that it has started; nothing of one that is gone."""
    found = {pid: _counts(pid)}
    waiting = [pid]
    while waiting:
        for child in _children(waiting.pop()):
            if child not in found:
                found[child] = _counts(child)
                waiting.append(child)
    return frozenset((one, *counts) for one, counts in found.items())


def _counts(pid: int) -> tuple[int, ...]:
    """Returns major page faults, user and system time in ticks, and the bytes that were read, from caches too."""
    fields = _read(pid, "stat").rpartition(")")[2].split()  # the name, in brackets, may hold anything
    times = [int(fields[index]) for index in (9, 11, 12)] if len(fields) > 12 else []
    lines = (line.split(": ") for line in _read(pid, "io").splitlines())
    return (*times, *(int(value) for name, value in lines if name in ("rchar", "read_bytes")))


def _children(pid: int) -> list[int]:
    """Returns those that any of its threads has started; none where the system does not tell."""
    try:
        threads = [thread.name for thread in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []
    return [int(child) for thread in threads for child in _read(pid, f"task/{thread}/children").split()]


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""
