"""What a process uses, as Linux says in /proc."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process uses now."""

    rss_bytes: int
    num_descriptors: int
    num_threads: int


def usage_of(pid: int) -> Usage | None:
    """Returns what a process uses; None if it is gone."""
    home = Path("/proc") / str(pid)
    try:
        lines = dict(line.partition(":")[::2] for line in (home / "status").read_text().splitlines())
        num_descriptors = len(os.listdir(home / "fd"))
        return Usage(int(lines["VmRSS"].split()[0]) << 10, num_descriptors, int(lines["Threads"]))
    except (FileNotFoundError, ProcessLookupError, KeyError):  # a process that has ended has no memory
        return None


def children_of(pid: int) -> list[int]:
    """Returns the processes that one has started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_worker(pid: int) -> bool:
    """Whether a process is a worker."""
    try:
        return b"gpu_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_alive(pid: int) -> bool:
    """Whether a process is there and has not ended; one that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
