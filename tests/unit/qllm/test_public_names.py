"""What `from qllm import …` finds, and what it costs those who ask for none of it."""

import os
import subprocess
import sys

import pytest
import qllm
import qllm.client

from tests.support.service.live_service import ROOT

ALL_OF_IT = """
import pkgutil, qllm
from importlib import import_module
from pathlib import Path

for module in pkgutil.walk_packages(qllm.__path__, "qllm."):
    if not module.name.endswith("__main__"):
        import_module(module.name)
files = [Path(file).resolve() for one in [*sys.modules.values()] if (file := getattr(one, "__file__", None))]
own = [file for file in files if Path.cwd() / "client" in file.parents]
assert len(own) > 100
assert len(own) == len(set(own)), f"{len(own)} modules of {len(set(own))} files"
"""


def run_apart(code: str) -> None:
    """Runs code in a process of its own, which has imported nothing yet."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"}
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}"], cwd=ROOT, env=environment, stderr=-1)
    assert done.returncode == 0, done.stderr.decode()


def test_every_public_name_of_the_client_is_one_of_the_package() -> None:
    assert qllm.__all__ == qllm.client.__all__
    assert all(getattr(qllm, name) is getattr(qllm.client, name) for name in qllm.__all__)
    assert set(qllm.__all__) <= set(dir(qllm))


def test_a_name_that_it_lacks_is_no_attribute() -> None:
    with pytest.raises(ImportError, match="Clint"):
        from qllm import Clint  # type: ignore[attr-defined]  # noqa: F401
    assert not hasattr(qllm, "Clint")


def test_importing_the_package_brings_in_neither_the_client_nor_grpc() -> None:
    run_apart("import qllm.settings, qllm.addresses\nassert not {'qllm.client', 'grpc', 'typer'} & set(sys.modules)")
    run_apart("from qllm import Client\nassert Client.__module__ == 'qllm.client.sync_client'")


@pytest.mark.parametrize("module", ["scheduler_svc.__main__", "gpu_worker.__main__"])
def test_the_service_s_processes_do_not_import_the_client(module: str) -> None:
    run_apart(f"import {module}\nassert 'qllm.client' not in sys.modules")


def test_no_module_is_there_under_two_names() -> None:
    run_apart(ALL_OF_IT)
