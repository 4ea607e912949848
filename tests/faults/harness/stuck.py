"""Keeps the first thread of a process from going on while its others do: `python -m tests.faults.harness.stuck PID`.

That is what a kernel without an end looks like from outside: the engine of a worker stands still, its link beats. The
thread is stopped as a debugger does it. This process ends with the one that it holds.
"""

import ctypes
import os
import sys

_SEIZE, _INTERRUPT = 0x4206, 0x4207


def hold(pid: int) -> None:
    """Stops the first thread of a process until that ends; raises OSError where the system does not let it."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    ptrace.restype = ctypes.c_long
    for request in (_SEIZE, _INTERRUPT):
        if ptrace(request, pid, None, None):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    print("held", flush=True)  # noqa: T201 - for whoever started this
    while True:  # a stop is told first; the end of the process has to be taken in, or its parent does not hear of it
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            return


if __name__ == "__main__":
    hold(int(sys.argv[1]))
