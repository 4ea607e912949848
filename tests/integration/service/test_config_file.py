"""One file of settings for the scheduler and the worker that it starts, as real processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.channel.control_channel import ROOT, python_path
from tests.support.service.live_service import start_service

FILE = """
policy = "fcfs"
max-be-requests = 66
be-min-share = 0.2

[scheduler]
max_be_requests = 77

[worker]
simulated = "zero"
served-model-name = ["from-the-file", "other"]
"""


@pytest.mark.parametrize("is_option", [True, False], ids=["--config", "QLLM_CONFIG"])
def test_one_file_serves_the_scheduler_and_the_worker_that_it_starts(
    is_option: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "qllm.toml"
    file.write_text(FILE)
    if not is_option:
        monkeypatch.setenv("QLLM_CONFIG", str(file))
    options = (*(("--config", str(file)) if is_option else ()), "--policy", "qllm")
    with start_service(ROOT / "demo/model", tmp_path / "log", *options) as service:
        info = service.info()
        assert info.policy == "qllm"  # the option wins over the file
        assert info.be_min_share == 0.2
        assert info.max_be_requests == 77  # the table wins over what stands above it
        assert info.model.name == "from-the-file"
        assert "simulated" in (tmp_path / "log").read_text()


def scheduler(*options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "scheduler_svc", *options]
    environment = {**python_path(), **environment}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)


SPAWNING = ("--model", str(ROOT / "demo/model"), "--spawn-worker")


def test_a_wrong_key_for_the_worker_ends_the_service_with_the_name_of_file_and_key(tmp_path: Path) -> None:
    file = tmp_path / "qllm.toml"
    file.write_text("[worker]\ndtpye = 'float32'\n")
    done = scheduler(*SPAWNING, "--grpc-port", "0", "--config", str(file))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("qllm-scheduler: the worker refused to start (exit code 2): ")
    assert f"{file}: [worker] dtpye: there is no such setting (did you mean dtype?)" in last


def test_check_config_says_and_checks_what_the_worker_that_would_be_started_is_told(tmp_path: Path) -> None:
    file = tmp_path / "qllm.toml"
    file.write_text("policy = 'fcfs'\n[worker]\ndtype = 'float32'\nthreads = 2\n")
    environment = {"QLLM_CONFIG": str(file), "QLLM_BLOCK_SIZE": "8"}
    done = scheduler(*SPAWNING, "--check-config", "--", "--threads", "3", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    own, workers = done.stdout.split("\nsettings of the worker that --spawn-worker starts\n")
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in workers.splitlines()}
    assert "--policy" in own
    assert "--policy" not in rows
    assert rows["--dtype"] == f"float32 file {file}"
    assert rows["--threads"] == "3 command line"
    assert rows["--block-size"] == "8 environment QLLM_BLOCK_SIZE"
    assert rows["--control-endpoint"] == "ipc://A-PRIVATE-SOCKET command line"


@pytest.mark.parametrize(
    ("content", "options", "refusal"),
    [
        ("[worker]\nfoo = 1", (), "[worker] foo: there is no such setting"),
        ("", ("--threads", "0"), "--threads: got 0, allowed is 1 or more"),
        ("", ("--dtype",), "dtype"),
    ],
)
def test_check_config_refuses_what_the_worker_would_refuse(
    content: str, options: tuple[str, ...], refusal: str, tmp_path: Path
) -> None:
    file = tmp_path / "qllm.toml"
    file.write_text(content)
    done = scheduler(*SPAWNING, "--check-config", "--config", str(file), "--", *options)
    assert done.returncode == 2
    assert refusal in done.stderr
