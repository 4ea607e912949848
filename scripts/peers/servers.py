"""The servers that are measured beside each other: how each is started on this machine, asked, and stopped."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_PORT = 8207
URL = f"http://127.0.0.1:{_PORT}"
_START_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 20.0
_POLL_S = 0.5


class ServerFailed(Exception):
    """A server did not come up; the message names its log."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server under test.

    Attributes:
        label: What results call it.
        command: What starts it at `URL`.
        bench: How the bench must speak to it.
        environment: Variables that it needs.
    """

    label: str
    command: list[str]
    bench: list[str]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """What files of it are called."""
        return self.label.replace(" ", "-").lower()


def qllm(
    model: str, dtype: str, *, num_threads: int = 0, ls_tpot_ms: float | None = None, policy: str | None = None
) -> Server:
    """Serves with this project, over its OpenAI-compatible endpoint.

    Args:
        model: Directory of the model.
        dtype: Type to compute in.
        num_threads: Threads of the worker; 0 is what it chooses.
        ls_tpot_ms: Milliseconds per token that latency-sensitive requests are promised; None is its default.
        policy: How it schedules; None is its default.
    """
    command = [sys.executable, "-m", "scheduler_svc", "--model", model, "--spawn-worker"]
    command += ["--grpc-port", "0", "--http-port", str(_PORT)]
    label, environment = "QLLM", {}
    if policy is not None:
        label += f" {policy}"
        command += ["--policy", policy]
    if num_threads:
        label += f" {num_threads} threads"
        environment = {"QLLM_THREADS": str(num_threads)}
    if ls_tpot_ms is not None:
        label += f" tpot {ls_tpot_ms:g}"
        command += ["--ls-tpot-ms", f"{ls_tpot_ms:g}"]
    command += ["--", "--dtype", dtype]
    return Server(label, command, ["--priority-field", "service_tier"], environment)


def vllm(
    venv: Path, model: str, dtype: str, token_budget: int, cores: str | None, *, shares_prefixes: bool = False
) -> Server:
    """Serves with vLLM on CPU and its priority scheduler.

    Args:
        venv: Where vLLM is installed.
        model: Directory of the model.
        dtype: Type to compute in.
        token_budget: Most tokens of an iteration; its default is 2048.
        cores: Cores that compute, such as "0-1"; None is its default, which leaves one to the rest of it.
        shares_prefixes: Ask for its prefix cache, and for how much of each prompt it finds there.
    """
    command = [str(venv / "bin/vllm"), "serve", model, "--host", "127.0.0.1", "--port", str(_PORT)]
    command += ["--scheduling-policy", "priority", "--dtype", dtype, "--max-model-len", "4096"]
    command += ["--max-num-batched-tokens", str(token_budget)]
    command += ["--enable-prefix-caching", "--enable-prompt-tokens-details"] if shares_prefixes else []
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    label = f"vLLM {token_budget}"
    if cores is not None:
        environment["VLLM_CPU_OMP_THREADS_BIND"] = cores
        label += f" cores {cores}"
    return Server(label, command, ["--priority-field", "priority"], environment)


def transformers(venv: Path, model: str, dtype: str) -> Server:
    """Serves with transformers' continuous batching, which knows no priority and takes text only."""
    command = [str(venv / "bin/transformers"), "serve", model, "--continuous-batching", "--device", "cpu"]
    command += ["--dtype", dtype, "--host", "127.0.0.1", "--port", str(_PORT)]
    bench = ["--priority-field", "none", "--no-ignore-eos", "--model", model]
    return Server("transformers serve", command, bench, {"HF_HUB_OFFLINE": "1"})


@contextlib.contextmanager
def running(server: Server, log_path: Path) -> Iterator[None]:
    """Runs a server until the block is left, in a session of its own so that all of its processes end with it.

    Raises:
        ServerFailed: It did not come up.
    """
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            server.command,
            env=os.environ | server.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait_until_serving(process, log_path)
            yield
        finally:
            _stop(process)


def bench(*arguments: str) -> None:
    """Runs `qllm-client bench`.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    subprocess.run([sys.executable, "-m", "qllm.client", "bench", *arguments], check=True)


def _wait_until_serving(process: "subprocess.Popen[bytes]", log_path: Path) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise ServerFailed(f"a server ended with exit code {process.returncode}; its log is {log_path}")
        with contextlib.suppress(urllib.error.URLError, ConnectionError), directly.open(f"{URL}/health", timeout=5):
            return
        time.sleep(_POLL_S)
    raise ServerFailed(f"a server did not serve within {_START_TIMEOUT_S:.0f} s; its log is {log_path}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
