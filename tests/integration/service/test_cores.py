"""Which cores a real worker's threads may run on, as the system tells."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.service.live_service import ROOT, LiveService, start_service

MODEL = ROOT / "demo" / "model"


@pytest.fixture
def two_cores() -> Iterator[frozenset[int]]:
    """Leaves this process, and with it the service that it starts, two cores."""
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("needs two cores")
    two = frozenset(sorted(before)[:2])
    os.sched_setaffinity(0, two)
    yield two
    os.sched_setaffinity(0, before)


@contextmanager
def started_worker(log: Path, num_threads: int) -> Iterator[int]:
    with start_service(MODEL, log, worker_options=("--threads", str(num_threads))) as service:
        yield service.worker_pid()


def cores_by_thread(pid: int) -> dict[int, frozenset[int]]:
    threads = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
    return {thread: frozenset(os.sched_getaffinity(thread)) for thread in threads}


def test_threads_that_take_every_core_keep_one_each_and_the_link_may_run_on_any(
    log: Path, two_cores: frozenset[int]
) -> None:
    with started_worker(log, 2) as worker:
        cores = cores_by_thread(worker)
        names = {thread: Path(f"/proc/{worker}/task/{thread}/comm").read_text() for thread in cores}
    assert "threads=2 from=--threads" in log.read_text()
    assert len(cores[worker]) == 1
    bound = [mine for mine in cores.values() if len(mine) == 1]
    assert len(bound) == 2
    assert frozenset.union(*bound) == two_cores
    links = [thread for thread, name in names.items() if name.startswith("ZMQbg")]
    assert links
    assert all(cores[thread] == two_cores for thread in links)


def test_a_thread_that_computes_alone_may_run_on_any_core(live_service: LiveService) -> None:
    allowed = frozenset(os.sched_getaffinity(live_service.process.pid))
    assert set(cores_by_thread(live_service.worker_pid()).values()) == {allowed}
