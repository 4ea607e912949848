"""What a child process does that works on what strangers wrote: it ends with its parent, has limits, and takes frames.

Imports little, since it stands at the start of each such process.
"""

import ctypes
import os
import resource
import signal
import sys
from typing import BinaryIO

from scheduler_svc.process import frames
from scheduler_svc.process.frames import Frame

_PR_SET_PDEATHSIG = 1
_MAX_STACK_BYTES = 8 << 20
_MAX_DESCRIPTORS = 64  # for modules that are imported late


def die_with(parent_pid: int) -> None:
    """Makes this process end at once when its parent does, even inside a loop (Linux; elsewhere once it reads on)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before the line above
        sys.exit(0)


def limit(max_memory_bytes: int, max_stack_bytes: int = _MAX_STACK_BYTES) -> None:
    """Takes from this process what it does not need: more memory and stack, files, a dump of what clients said."""
    for which, most in (
        (resource.RLIMIT_STACK, max_stack_bytes),
        (resource.RLIMIT_AS, max_memory_bytes),
        (resource.RLIMIT_NOFILE, _MAX_DESCRIPTORS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(which)
        lowest = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (lowest, lowest))


def next_frame(source: BinaryIO) -> Frame | None:
    """Returns the next frame; None at the end of the input."""
    head = source.read(frames.HEAD_BYTES)
    if len(head) < frames.HEAD_BYTES:
        return None
    num_bytes = frames.body_bytes(head)
    body = source.read(num_bytes)
    return frames.read(body) if len(body) == num_bytes else None


def tell(sink: BinaryIO, frame: Frame) -> None:
    """Writes a frame."""
    sink.write(frames.written(frame))
    sink.flush()
