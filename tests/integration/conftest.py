"""Services for all tests that only need some service: a start of the real one costs more than most tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service.live_service import ROOT, LiveService, free_port, start_service
from tests.support.service.simulated_worker import INSTANT, slow_worker

MODEL = ROOT / "demo" / "model"


@pytest.fixture(scope="session")
def http_port() -> int:
    """Where `live_service` serves HTTP."""
    return free_port()


@pytest.fixture(scope="session")
def metrics_port() -> int:
    """Where `live_service` serves metrics."""
    return free_port()


@pytest.fixture(scope="session")
def live_service(tmp_path_factory: pytest.TempPathFactory, http_port: int, metrics_port: int) -> Iterator[LiveService]:
    """The demo model."""
    log = tmp_path_factory.mktemp("service") / "log"
    ports = ("--http-port", str(http_port), "--metrics-port", str(metrics_port))
    with start_service(MODEL, log, *ports) as service:
        yield service


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """No model; iterations take some 150 ms, in units of 2 ms."""
    directory = tmp_path_factory.mktemp("slow")
    with start_service(MODEL, directory / "log", worker_options=slow_worker(directory)) as service:
        yield service


@pytest.fixture(scope="session")
def free(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """No model; iterations take no time."""
    log = tmp_path_factory.mktemp("free") / "log"
    with start_service(MODEL, log, worker_options=INSTANT) as service:
        yield service


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "service.log"
