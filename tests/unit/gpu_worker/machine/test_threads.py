"""How many threads the operations get: all cores that the process may use, or the number that it is told."""

import pytest

from gpu_worker.machine.threads import ThreadCount, thread_count
from tests.support.worker.worker_machine import set_cores, worker


@pytest.mark.parametrize(
    ("num_cores", "num_processes", "number"), [(1, 1, 1), (2, 1, 2), (8, 1, 8), (8, 2, 4), (7, 2, 3), (2, 4, 1)]
)
def test_all_cores_that_the_process_may_use_are_taken(
    monkeypatch: pytest.MonkeyPatch, num_cores: int, num_processes: int, number: int
) -> None:
    set_cores(monkeypatch, num_cores)
    assert thread_count(worker(num_processes=num_processes)) == ThreadCount(number, "affinity")


@pytest.mark.parametrize(
    ("quota", "number", "origin"),
    [
        (0.2, 1, "cgroup_quota"),
        (1.5, 2, "cgroup_quota"),
        (3.0, 3, "cgroup_quota"),
        (3.5, 4, "affinity"),
        (9.0, 4, "affinity"),
    ],
)
def test_a_quota_is_rounded_up_and_counts_where_it_is_less_than_the_cores(
    monkeypatch: pytest.MonkeyPatch, quota: float, number: int, origin: str
) -> None:
    set_cores(monkeypatch, 4, quota)
    assert thread_count(worker()) == ThreadCount(number, origin)


def test_a_number_that_was_given_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    set_cores(monkeypatch, 2, 1.0)
    assert thread_count(worker(3)) == ThreadCount(3, "--threads")
    assert thread_count(worker(3, num_processes=2)) == ThreadCount(3, "--threads")
