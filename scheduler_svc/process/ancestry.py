"""Tells whether one process was started by another, from what Linux says in /proc."""

from pathlib import Path


def is_or_descends_from(pid: int, ancestor: int) -> bool:
    """Whether a process is another one, or was started by it or its children; one that is gone descends from none."""
    while pid > 1 and pid != ancestor:
        parent = _parent(pid)
        if parent is None:
            return False
        pid = parent
    return pid == ancestor


def _parent(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name, in brackets, may hold anything; behind it come the state and the parent.
    return int(stat.rpartition(")")[2].split()[1])
