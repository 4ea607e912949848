"""The scheduler and the client install and start on a machine that has no torch."""

import os
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

from tests.live_service import ROOT, free_port

HEAVY = ("torch", "transformers", "bitsandbytes")


def clean_environment() -> dict[str, str]:
    ours = ("PYTHON", "QLLM_", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def output_of(command: list[str | Path]) -> bytes:
    return subprocess.run(command, capture_output=True, env=clean_environment()).stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_scheduler_starts_from_a_base_install_that_has_no_torch(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv")
    bin_dir = tmp_path / "venv" / "bin"
    pip = [sys.executable, "-m", "pip", "--python", bin_dir / "python", "--disable-pip-version-check"]
    pip_install = [*pip, "install", "--quiet", "--no-compile"]
    subprocess.run([*pip_install, "-c", ROOT / "constraints.txt", ROOT], check=True, env=clean_environment())
    for name in HEAVY:
        found = subprocess.run([bin_dir / "python", "-c", f"import {name}"], capture_output=True, cwd=tmp_path)
        assert b"ModuleNotFoundError" in found.stderr
    port = free_port()
    command = [bin_dir / "qllm-scheduler", "--control-endpoint", f"ipc://{tmp_path}/c", "--grpc-port", str(port)]
    with subprocess.Popen(command, cwd=tmp_path, env=clean_environment()) as scheduler:
        health = [bin_dir / "qllm-client", "health", "--address", f"127.0.0.1:{port}"]
        deadline = time.monotonic() + 300
        while b"NOT_SERVING" not in (seen := output_of(health)):
            assert scheduler.poll() is None
            assert time.monotonic() < deadline, seen
        scheduler.terminate()
        assert scheduler.wait(120) == 0
    spawning: list[str | Path] = [
        bin_dir / "qllm-scheduler",
        "--model",
        ROOT / "demo/model",
        "--spawn-worker",
        "--grpc-port",
        "0",
    ]
    refused = subprocess.run(spawning, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True)
    assert refused.returncode == 2
    assert "pip install 'qllm[worker]'" in refused.stderr.splitlines()[-1]
    assert refused.stderr.count("worker_started") == 1


@pytest.mark.parametrize("package", ["scheduler_svc.service", "client.__main__"])
def test_importing_pulls_in_no_torch(package: str) -> None:
    code = f"import sys, {package}; sys.exit(any(name in sys.modules for name in {HEAVY}))"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment).returncode == 0
