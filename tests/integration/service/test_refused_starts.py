"""What cannot be served is refused in one line and with exit code 2, before anything expensive is started."""

import itertools
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.channel.control_channel import ROOT, python_path

MODEL = str(ROOT / "demo/model")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def refusal(*options: str) -> str:
    """Starts a scheduler that is to refuse; returns all that it says."""
    command = [sys.executable, "-m", "scheduler_svc", *options]
    done = subprocess.run(command, cwd=ROOT, env=python_path(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 2, done.stderr
    return done.stderr


@pytest.mark.parametrize("option", ["--grpc-port", "--http-port", "--metrics-port"])
def test_a_port_that_is_taken_is_refused_before_the_worker_is_started(option: str, taken_port: int) -> None:
    ports = {"--grpc-port": "0", "--http-port": "0", "--metrics-port": "0", option: str(taken_port)}
    said = refusal("--model", MODEL, "--spawn-worker", *itertools.chain(*ports.items()))
    reason = f"got 127.0.0.1:{taken_port}, which cannot be listened on: Address already in use"
    assert said == f"qllm-scheduler: {option}: {reason}\n"


def test_a_model_that_is_not_there_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    for path, found in ((tmp_path / "nope", "where there is nothing"), (tmp_path / "file", "which is no directory")):
        (tmp_path / "file").touch()
        allowed = "allowed is a directory, or NAME or ORG/NAME on the hub"
        said = refusal("--model", str(path), "--spawn-worker", "--grpc-port", "0")
        assert said == f"qllm-scheduler: --model: got {path}, {found}; {allowed}\n"


def test_a_scheduler_that_is_told_nothing_says_what_to_tell_it() -> None:
    assert "give --model DIR_OR_HUB_ID --spawn-worker, or --control-endpoint ipc://PATH" in refusal()


def test_a_truncated_checkpoint_is_refused_at_the_first_start_by_the_name_of_its_file(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(MODEL, directory)
    os.truncate(directory / "model.safetensors", 6_000_000)
    said = refusal("--model", str(directory), "--spawn-worker", "--grpc-port", "0")
    assert said.count("worker_started") == 1
    assert "Traceback" not in said
    assert [line.startswith("qllm-scheduler: ") for line in said.splitlines() if "model.safetensors" in line] == [True]


def test_a_worker_without_its_packages_names_the_command_that_installs_them() -> None:
    program = "import sys; sys.modules['torch'] = None; from gpu_worker.__main__ import main; main()"
    command = [sys.executable, "-c", program, "--control-endpoint", "ipc:///nowhere", "--model", MODEL]
    done = subprocess.run(command, cwd=ROOT, env=python_path(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("packages that are not installed (torch): pip install 'qllm[worker]'\n")


def test_setting_up_with_a_python_that_is_not_there_says_which_is_needed(tmp_path: Path) -> None:
    command = ["make", "setup", "PYTHON=python3.99", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert "there is no python3.99 here. QLLM needs Python 3.11 or newer" in done.stderr
    assert done.returncode == 2
