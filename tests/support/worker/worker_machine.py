"""Machines and workers, as far as the number of threads depends on them."""

import os

import pytest

from gpu_worker.machine import threads
from gpu_worker.settings import WorkerConfig


def set_cores(monkeypatch: pytest.MonkeyPatch, num_cores: int, quota: float | None = None) -> None:
    """Lets this process have so many cores, and so much of their time."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(num_cores)))
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)


def worker(num_threads: int | None = None, num_processes: int = 1) -> WorkerConfig:
    return WorkerConfig(
        model="m", control_endpoint="ipc:///c", num_threads=num_threads, tensor_parallel_size=num_processes
    )
