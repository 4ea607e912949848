"""Ends a process together with what it has started in its group, however it ends itself."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def ended_with_its_group(pid: int) -> Iterator[None]:
    """Has what a process has started in its group end with it, which would keep open the pipe that tells of its end."""
    loop = asyncio.get_running_loop()
    try:
        descriptor = os.pidfd_open(pid)  # readable once the process has ended
    except ProcessLookupError:  # it has already
        kill_group(pid)
        yield
        return
    except OSError:  # no descriptor is left: then its end is noticed once the pipe is closed
        yield
        return

    def end() -> None:
        loop.remove_reader(descriptor)
        kill_group(pid)

    loop.add_reader(descriptor, end)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def kill_group(pid: int) -> None:
    """Ends all processes of a group, if there are any."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
