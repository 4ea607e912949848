"""Reads what the control group of this process, and those above it, let it have: Linux' way to limit a container.

    version 2   /sys/fs/cgroup/GROUP/cpu.max                        "150000 100000": microseconds per period, or "max"
                /sys/fs/cgroup/GROUP/memory.max                     bytes, or "max"
    version 1   /sys/fs/cgroup/cpu/GROUP/cpu.cfs_quota_us           and cpu.cfs_period_us; -1 for no limit
                /sys/fs/cgroup/memory/GROUP/memory.limit_in_bytes   a huge number for no limit

/proc/self/cgroup names GROUP. In a container that name may be the host's, which is not there: so the root is looked at
too, which is then the container's own. What can't be read limits nothing.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_MEMORY_FILES = (
    ("memory.max", "memory.current", ("active_file", "inactive_file")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")),
)


def cpu_quota(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> float | None:
    """Returns the cores' worth of time that this process may take, such as 1.5; None for no limit."""
    quotas = [quota for group in _groups("cpu", root, membership) if (quota := _quota(group)) is not None]
    return min(quotas, default=None)


def free_memory_bytes(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> int | None:
    """Returns the bytes that this process may still take; what only caches files counts as free; None for no limit."""
    free = [left for group in _groups("memory", root, membership) if (left := _memory_left(group)) is not None]
    return min(free, default=None)


def _groups(controller: str, root: Path, membership: Path) -> Iterator[Path]:
    """The directories of this process's group and of those above it, in whichever version has the controller."""
    for line in _text(membership).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        mounts = [root / controllers, root / controller] if controllers else [root, root / "unified"]
        for mount in mounts:
            group = PurePosixPath(name.lstrip("/"))
            yield from (mount / above for above in (group, *group.parents))


def _quota(group: Path) -> float | None:
    quota, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
    match _text(group / "cpu.max").split():
        case [given, per]:
            quota, period = _as_number(given), _as_number(per)
    return quota / period if quota is not None and period and quota > 0 else None


def _memory_left(group: Path) -> int | None:
    for limit_file, used_file, cache_names in _MEMORY_FILES:
        limit, used = _number(group / limit_file), _number(group / used_file)
        if limit is not None and used is not None:
            numbers = dict(line.split(maxsplit=1) for line in _text(group / "memory.stat").splitlines() if " " in line)
            # Shared memory is not among it: that stays.
            cached = sum(_as_number(numbers.get(name, "0")) or 0 for name in cache_names)
            return max(0, limit - used + cached)
    return None


def _number(file: Path) -> int | None:
    return _as_number(_text(file).strip())


def _as_number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None  # "max", or nothing


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
