"""What cannot be served is refused in one line and with exit code 2, before anything expensive is started."""

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.control_channel import ROOT, python_path

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


@pytest.mark.parametrize("option", ["--grpc-port", "--http-port"])
def test_a_port_that_is_taken_is_refused_before_the_worker_is_started(option: str, taken_port: int) -> None:
    other = "--http-port" if option == "--grpc-port" else "--grpc-port"
    said = refusal("--model", MODEL, "--spawn-worker", other, "0", option, str(taken_port))
    reason = f"got 127.0.0.1:{taken_port}, which cannot be listened on: Address already in use"
    assert said == f"qllm-scheduler: {option}: {reason}\n"
