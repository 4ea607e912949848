"""The very commands of docker-compose.yml, run as local processes: they find each other, serve, and stop in good order.

Only what containers would give is replaced: the directories, the published port, and the
scheduler's name on the network.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.service.compose_file import read_compose
from tests.support.service.live_service import ROOT, LiveService, free_port

START_S = 400.0
COMMAND_S = 300.0
SETTINGS = {"QLLM_DTYPE": "float32", "QLLM_THREADS": "1", "QLLM_KV_MEMORY": "50MiB"}
MODULES = {"qllm-scheduler": "scheduler_svc", "qllm-worker": "gpu_worker", "qllm-client": "qllm.client"}
SERVICES = ("scheduler", "worker-cpu")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Stack:
    """The services of docker-compose.yml, each as a local process."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.http_port = free_port()
        self.metrics_port = free_port()
        self.directory = directory
        self._services = read_compose(SETTINGS)["services"]
        self._here = {
            "/run/qllm": str(directory / "run"),
            "/opt/qllm/demo-model": str(ROOT / "demo" / "model"),
            "scheduler:50051": f"127.0.0.1:{self.port}",
            "50051": str(self.port),
            "--http-port=8000": f"--http-port={self.http_port}",
            "--metrics-port=9464": f"--metrics-port={self.metrics_port}",
        }

    def start(self, name: str) -> subprocess.Popen[bytes]:
        service = self._services[name]
        command = program(self._localized(service["command"]))
        with self.log(name).open("wb") as log:
            return subprocess.Popen(command, cwd=ROOT, env=self._environment(service), stderr=log, stdout=log)

    def check_health(self, name: str) -> subprocess.CompletedProcess[str]:
        test = self._services[name]["healthcheck"]["test"]
        assert test[0] == "CMD"
        return self.run(*test[1:])

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        words = program(self._localized(command))
        return subprocess.run(
            words, cwd=ROOT, env=bare_environment(), capture_output=True, text=True, timeout=COMMAND_S
        )

    def wait_until_healthy(self, processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
        deadline_s = time.monotonic() + START_S
        scheduler = LiveService(processes["scheduler"], f"127.0.0.1:{self.port}", self.log("scheduler"))
        while not scheduler.is_serving():  # cheaper than the health check, which is a process each time
            assert all(process.poll() is None for process in processes.values()), self.logs()
            assert time.monotonic() < deadline_s, self.logs()
            time.sleep(0.2)

    def log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def logs(self) -> str:
        return "\n".join(f"{name}:\n{self.log(name).read_text()[-3000:]}" for name in SERVICES)

    def _environment(self, service: Mapping[str, Any]) -> dict[str, str]:
        settings = service["environment"]
        return {**bare_environment(), **dict(zip(settings, self._localized(settings.values()), strict=True))}

    def _localized(self, words: Any) -> list[str]:
        return [self._localize(word) for word in words]

    def _localize(self, word: str) -> str:
        for there, here in self._here.items():
            if there in word:
                return word.replace(there, here)
        return word


@contextmanager
def killed_at_last(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def program(command: list[str]) -> list[str]:
    """Returns the command as it runs here: an image has the console scripts on its PATH, a working tree perhaps not."""
    script = Path(sys.executable).with_name(command[0])
    found = [str(script)] if script.exists() else [sys.executable, "-m", MODULES[command[0]]]
    return [*found, *command[1:]]


def bare_environment() -> dict[str, str]:
    """Returns what a process needs to run here, without this shell's settings of QLLM."""
    paths = os.pathsep.join((str(ROOT), str(ROOT / "protos")))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QLLM_")}
    return {**kept, "PYTHONPATH": paths}


def test_commands_of_compose_serve_together_and_stop_cleanly(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    with ExitStack() as exits:
        processes = {name: exits.enter_context(killed_at_last(stack.start(name))) for name in SERVICES}
        stack.wait_until_healthy(processes)

        health = stack.run("qllm-client", "health", "--address", "scheduler:50051")
        assert health.stdout.strip() == "SERVING", health.stderr
        checks = {name: stack.check_health(name) for name in SERVICES}
        assert {name: check.returncode for name, check in checks.items()} == dict.fromkeys(SERVICES, 0), checks

        answer = generate(stack)
        assert answer["finish_reason"] == "length"
        assert len(answer["token_ids"]) == 8

        # The order of `docker compose stop`: first what depends on others.
        exit_codes = {name: stop(processes[name]) for name in reversed(SERVICES)}
        assert exit_codes == dict.fromkeys(SERVICES, 0), stack.logs()


def test_health_check_of_compose_fails_while_no_worker_has_joined(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    with killed_at_last(stack.start("scheduler")) as scheduler:
        deadline_s = time.monotonic() + START_S
        while "NOT_SERVING" not in (check := stack.check_health("scheduler")).stdout:
            assert scheduler.poll() is None, stack.log("scheduler").read_text()
            assert time.monotonic() < deadline_s, check
            time.sleep(0.2)
        assert check.returncode == 1
        assert stop(scheduler) == 0


def generate(stack: Stack) -> dict[str, Any]:
    prompt = ("--temperature", "0", "--ignore-eos", "--max-tokens", "8", "--json", "def add(a, b):")
    result = stack.run("qllm-client", "generate", "--address", "scheduler:50051", *prompt)
    assert result.returncode == 0, result.stderr + stack.logs()
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def stop(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(COMMAND_S)
