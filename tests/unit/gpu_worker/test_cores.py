"""How many threads the worker may have, and whether OpenMP is told to bind them. What that does: tests/integration/test_cores."""

import os

import pytest

from gpu_worker.config import WorkerConfig
from gpu_worker.cores import Cores, most_threads


@pytest.fixture(autouse=True)
def _no_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_PROC_BIND", "")  # so that it is put back whatever a test makes of it
    monkeypatch.delenv("OMP_PROC_BIND")


def on_cores(monkeypatch: pytest.MonkeyPatch, num_cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(num_cores)))


def worker(num_threads: int | None = None, num_processes: int = 1) -> WorkerConfig:
    return WorkerConfig(
        model="m", control_endpoint="ipc:///c", num_threads=num_threads, tensor_parallel_size=num_processes
    )


@pytest.mark.parametrize(
    ("num_cores", "asked", "num_processes", "most"),
    [(1, None, 1, 1), (2, None, 1, 2), (8, None, 1, 7), (8, None, 2, 3), (2, None, 4, 1), (8, 12, 1, 12)],
)
def test_a_core_is_left_for_the_scheduler_where_there_are_more_than_two(
    monkeypatch: pytest.MonkeyPatch, num_cores: int, asked: int | None, num_processes: int, most: int
) -> None:
    on_cores(monkeypatch, num_cores)
    assert most_threads(worker(asked, num_processes)) == most


@pytest.mark.parametrize(
    ("num_cores", "asked", "num_processes", "told"),
    [(2, None, 1, "true"), (4, 4, 1, "true"), (2, 1, 1, None), (4, None, 1, None), (4, 4, 2, None), (1, None, 2, None)],
)
def test_threads_are_bound_where_those_of_one_process_take_every_core(
    monkeypatch: pytest.MonkeyPatch, num_cores: int, asked: int | None, num_processes: int, told: str | None
) -> None:
    on_cores(monkeypatch, num_cores)
    Cores().bind_threads(worker(asked, num_processes))
    assert os.environ.get("OMP_PROC_BIND") == told


def test_whoever_runs_the_worker_may_tell_openmp_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cores(monkeypatch, 2)
    monkeypatch.setenv("OMP_PROC_BIND", "false")
    Cores().bind_threads(worker())
    assert os.environ["OMP_PROC_BIND"] == "false"
