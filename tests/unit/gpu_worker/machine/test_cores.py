"""Whether OpenMP is told to bind the worker's threads. What that does: tests/integration/service/test_cores."""

import os

import pytest

from gpu_worker.machine.cores import Cores
from tests.support.worker.worker_machine import set_cores, worker


@pytest.fixture(autouse=True)
def _no_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_PROC_BIND", "")  # so that it is put back whatever a test makes of it
    monkeypatch.delenv("OMP_PROC_BIND")


@pytest.mark.parametrize(
    ("num_cores", "asked", "num_processes", "told"),
    [
        (2, None, 1, "true"),
        (4, 4, 1, "true"),
        (2, 1, 1, None),
        (4, None, 1, "true"),
        (4, 3, 1, None),
        (4, 4, 2, None),
        (1, None, 2, None),
    ],
)
def test_threads_are_bound_where_those_of_one_process_take_every_core(
    monkeypatch: pytest.MonkeyPatch, num_cores: int, asked: int | None, num_processes: int, told: str | None
) -> None:
    set_cores(monkeypatch, num_cores)
    Cores().bind_threads(worker(asked, num_processes))
    assert os.environ.get("OMP_PROC_BIND") == told


@pytest.mark.parametrize(("quota", "told"), [(2.0, None), (3.0, None), (3.5, "true"), (8.0, "true")])
def test_threads_of_a_quota_that_leaves_cores_to_others_are_not_bound(
    monkeypatch: pytest.MonkeyPatch, quota: float, told: str | None
) -> None:
    set_cores(monkeypatch, 4, quota)
    Cores().bind_threads(worker())
    assert os.environ.get("OMP_PROC_BIND") == told


def test_whoever_runs_the_worker_may_tell_openmp_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    set_cores(monkeypatch, 2)
    monkeypatch.setenv("OMP_PROC_BIND", "false")
    Cores().bind_threads(worker())
    assert os.environ["OMP_PROC_BIND"] == "false"
