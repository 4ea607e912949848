"""A machine without any interpreter."""

from pathlib import Path

import pytest

from tests.unit.scripts.stub_interpreters import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)
