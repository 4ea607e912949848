"""Decides how many threads the tensor operations get: as many as the process may have cores, unless told a number.

Nothing is measured: what others do in the second of a measurement would decide for the worker's life. It knows no
torch, since OpenMP must be told before torch is loaded (`cores`).
"""

import math
import os
from dataclasses import dataclass

from gpu_worker.machine.control_group import cpu_quota
from gpu_worker.settings import WorkerConfig


@dataclass(frozen=True, slots=True)
class ThreadCount:
    """A number of threads.

    Attributes:
        number: Threads of one tensor operation, at least 1.
        origin: What it comes from: "--threads", "affinity" or "cgroup_quota".
    """

    number: int
    origin: str


def thread_count(config: WorkerConfig) -> ThreadCount:
    """Returns the threads of one tensor operation in each of the processes that hold the model."""
    if config.num_threads is not None:
        return ThreadCount(config.num_threads, "--threads")
    num_cores, origin = len(os.sched_getaffinity(0)), "affinity"
    quota = cpu_quota()
    if quota is not None and math.ceil(quota) < num_cores:
        num_cores, origin = math.ceil(quota), "cgroup_quota"
    return ThreadCount(max(1, num_cores // config.num_ranks), origin)
