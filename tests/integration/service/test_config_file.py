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


def test_a_wrong_key_for_the_worker_ends_the_service_with_the_name_of_file_and_key(tmp_path: Path) -> None:
    file = tmp_path / "qllm.toml"
    file.write_text("[worker]\ndtpye = 'float32'\n")
    command = [sys.executable, "-m", "scheduler_svc", "--model", str(ROOT / "demo/model"), "--spawn-worker"]
    command += ["--grpc-port", "0", "--config", str(file)]
    done = subprocess.run(command, cwd=ROOT, env=python_path(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("qllm-scheduler: the worker refused to start (exit code 2): ")
    assert f"{file}: [worker] dtpye: there is no such setting (did you mean dtype?)" in last
