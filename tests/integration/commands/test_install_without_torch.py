"""The wheel holds all that its packages need, and serves on a machine that has neither torch nor this repository.

The environment is made with the newest Python that can be had here; all other tests run on the one that runs this.
"""

import os
import re
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from qllm.version import __version__

from tests.support.service.live_service import ROOT, free_port

HEAVY = ("torch", "transformers", "bitsandbytes")
PACKAGES = {
    "scheduler_svc": "scheduler_svc",
    "gpu_worker": "gpu_worker",
    "protos/qllm": "qllm",
    "client": "qllm/client",
}
OWN_MODULE = "client.py"  # of the user, in the folder where the commands run
FROM_PYTHON = """
import client
from qllm import AsyncClient, Client, Overloaded, RequestClass

assert client.IS_THE_USERS
print(Client.__module__, AsyncClient.__module__)
"""
PAGE = "from qllm.client.bench.report.html import Page; print(Page('A title', '', [], [], [], []).render())"


def clean_environment() -> dict[str, str]:
    ours = ("PYTHON", "QLLM_", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def newest_python() -> Path:
    """The newest Python on the PATH or of pyenv's that runs and makes environments; this one if there is none newer."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    folders = [Path(folder) for folder in os.get_exec_path()] + sorted(versions.glob("*/bin"))
    numbered = [
        (int(found[1]), path)
        for folder in folders
        if folder.is_dir()
        for path in folder.iterdir()
        if (found := re.fullmatch(r"python3\.(\d+)", path.name)) and int(found[1]) > sys.version_info.minor
    ]
    for _, path in sorted(numbered, key=lambda one: one[0], reverse=True):
        if subprocess.run([path, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0:
            return path
    return Path(sys.executable)


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel in it, and a folder to run its commands in."""

    directory: Path

    @property
    def bin(self) -> Path:
        return self.directory / "venv" / "bin"

    def run(self, name: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        command = [self.bin / name, *arguments]
        return subprocess.run(command, cwd=self.directory, env=clean_environment(), capture_output=True, text=True)

    def output_of(self, name: str, *arguments: str | Path) -> str:
        done = self.run(name, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def running(self, name: str, *arguments: str | Path) -> Iterator["subprocess.Popen[bytes]"]:
        """Runs a command until the block is left; it must end well when it is asked to."""
        with subprocess.Popen([self.bin / name, *arguments], cwd=self.directory, env=clean_environment()) as process:
            try:
                yield process
                assert process.poll() is None
                process.terminate()
                assert process.wait(120) == 0
            finally:
                process.kill()


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, env=clean_environment())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    pip("wheel", "--quiet", "--no-deps", "--wheel-dir", directory, ROOT)
    (made,) = directory.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    directory = tmp_path_factory.mktemp("machine")
    subprocess.run([newest_python(), "-m", "venv", "--without-pip", directory / "venv"], check=True)
    python = directory / "venv" / "bin" / "python"
    pip("--python", python, "install", "--quiet", "--no-compile", "-c", ROOT / "constraints.txt", wheel)
    (directory / OWN_MODULE).write_text("IS_THE_USERS = True\n")
    return Installed(directory)


def wait_for(
    wanted: health_pb2.HealthCheckResponse.ServingStatus.ValueType,
    installed: Installed,
    port: int,
    running: Sequence["subprocess.Popen[bytes]"],
) -> None:
    """Waits until the scheduler says so, and then has the installed client ask too."""
    deadline = time.monotonic() + 300
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while (
            seen := health.Check(health_pb2.HealthCheckRequest(), timeout=300, wait_for_ready=True)
        ).status != wanted:
            assert all(process.poll() is None for process in running)
            assert time.monotonic() < deadline, seen
            time.sleep(0.1)
    said = installed.run("qllm-client", "health", "--address", f"127.0.0.1:{port}").stdout.split()
    assert health_pb2.HealthCheckResponse.ServingStatus.Name(wanted) in said


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_its_packages(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    held = set(names)
    assert len(held) == len(names)
    wanted = {
        f"{name}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, name in PACKAGES.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= held
    assert {path.rpartition(".")[2] for path in wanted} >= {"py", "pyi", "typed", "json", "j2"}


@pytest.mark.slow
def test_the_wheel_installs_no_package_with_a_name_that_a_user_may_have(wheel: Path) -> None:
    (about,) = wheel.name.rpartition("-py3")[:1]
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"scheduler_svc", "gpu_worker", "qllm", f"{about}.dist-info"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_client_is_found_beside_a_users_own_client_module(installed: Installed) -> None:
    said = installed.output_of("python", "-c", FROM_PYTHON)
    assert said == "qllm.client.sync_client qllm.client.async_client\n"
    assert installed.output_of("qllm-client", "--version") == f"qllm-client {__version__}\n"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_scheduler_and_a_simulated_worker_serve_from_a_base_install_that_has_no_torch(installed: Installed) -> None:
    for name in HEAVY:
        assert "ModuleNotFoundError" in installed.run("python", "-c", f"import {name}").stderr
    port, metrics_port, endpoint = free_port(), free_port(), f"ipc://{installed.directory}/c"
    serve = ("--control-endpoint", endpoint, "--grpc-port", str(port), "--metrics-port", str(metrics_port))
    work = ("--control-endpoint", endpoint, "--model", ROOT / "demo/model", "--simulated", "a100-mixtral-8x7b")
    with installed.running("qllm-scheduler", *serve) as scheduler:
        wait_for(health_pb2.HealthCheckResponse.NOT_SERVING, installed, port, [scheduler])
        with installed.running("qllm-worker", *work) as worker:
            wait_for(health_pb2.HealthCheckResponse.SERVING, installed, port, [scheduler, worker])
            address = ("--address", f"127.0.0.1:{port}")
            assert installed.output_of("qllm-client", "generate", *address, "--max-tokens", "3", "def f").strip()
            with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=300) as page:
                assert b'qllm:generation_tokens_total{class="ls"} 3.0' in page.read()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_base_install_that_is_to_spawn_a_worker_names_the_command_that_installs_it(installed: Installed) -> None:
    spawning = ("--model", ROOT / "demo/model", "--spawn-worker", "--grpc-port", "0")
    refused = installed.run("qllm-scheduler", *spawning)
    assert refused.returncode == 2
    assert "pip install 'qllm[worker]'" in refused.stderr.splitlines()[-1]
    assert refused.stderr.count("worker_started") == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_help_simulations_and_pages_need_nothing_of_the_repository(installed: Installed) -> None:
    for command in (("qllm-scheduler",), ("qllm-worker",), ("qllm-client", "bench", "simulate")):
        assert "Usage:" in installed.output_of(*command, "--help")
    simulated = installed.output_of("qllm-client", "bench", "simulate", "--values", "1", "--seconds", "5")
    assert "SIMULATED on a100-mixtral-8x7b" in simulated
    assert "<title>A title</title>" in installed.output_of("python", "-c", PAGE)


@pytest.mark.parametrize("package", ["scheduler_svc.service", "qllm.client.__main__"])
def test_importing_pulls_in_no_torch(package: str) -> None:
    code = f"import sys, {package}; sys.exit(any(name in sys.modules for name in {HEAVY}))"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment).returncode == 0
