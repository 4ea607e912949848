"""One service with the demo model for all tests that only need some service."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live_service import ROOT, LiveService, start_service


@pytest.fixture(scope="session")
def live_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    log = tmp_path_factory.mktemp("service") / "log"
    with start_service(ROOT / "demo" / "model", log) as service:
        yield service


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "service.log"
