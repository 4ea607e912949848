"""What the operating system needs to know of the worker's process: whom it dies with, how it waits, what it frees."""

import ctypes
import gc
import os
import signal
import sys
from typing import NoReturn

SPIN_COUNT = "5000"  # how often a thread of OpenMP looks before it sleeps: some 0.1 ms

_PR_SET_PDEATHSIG = 1
_PR_SET_TIMERSLACK = 29


def die_with(parent_pid: int) -> None:
    """Makes this process end at once when its parent does, however the parent ends (Linux; a no-op elsewhere).

    SIGKILL, because a hung worker would not get around to handling anything gentler; there is nothing to save.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before the line above
        sys.exit(f"qllm-worker: parent {parent_pid} is gone")


def is_one_of_several() -> bool:
    """Whether torchrun started this process as one of several that hold a model together."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def become_several(number: int) -> NoReturn:
    """Turns this process into a torchrun that starts it anew so many times and ends when any of them does."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
    os.execv(sys.executable, [*launcher, "-m", "gpu_worker", *sys.argv[1:]])


def sleep_precisely() -> None:
    """Makes sleeps of the calling thread end when they should, not up to 50 us later (Linux; a no-op elsewhere)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_TIMERSLACK, 1)


def spare_the_engine() -> None:
    """Keeps Python itself from holding the engine up: for the process that runs one, once its model is loaded."""
    sys.setswitchinterval(0.0005)  # the link's thread must not wait 5 ms for the engine's to hear Preempt
    gc.collect()
    gc.freeze()  # a full round of the collector over what torch and transformers made stops the engine for 0.2 s


def wait_briefly() -> None:
    """Makes OpenMP's threads spin for a moment when they wait, then sleep. To be called before torch is loaded.

    Spinning for long starves the scheduler, and the threads themselves, on a machine with few cores: one that lost its
    core stops all. Sleeping at once costs a wake-up in every operation, which takes all that a second thread brings; so
    would sleeping while Python gets from one layer to the next.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # for other runtimes than GNU's
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def release_freed_memory() -> None:
    """Gives memory that was freed back to the system at once (glibc; a no-op elsewhere), rather than keep it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
