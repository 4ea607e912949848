"""Measures QLLM beside what users can pick instead: one model, one load, one machine, one server after another.

    python -m scripts.peers --model bench-models/mini-mixtral --vllm VENV --transformers VENV --output results/

VENV is a virtual environment that holds the peer, on CPU: vLLM, or transformers with its `serving` extra. Each server
is started, measured by `qllm-client bench --http`, and stopped; `--rounds` lets them take turns, so that what else the
machine does meets them alike. What stands after `--` goes to the bench. Ends with a comparison of all results.
"""

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
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from gpu_worker.settings import DType

_PORT = 8207
_START_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 20.0
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Server:
    """A server under test.

    Attributes:
        label: What results call it.
        command: What starts it on `_PORT` of the loopback interface.
        bench: How the bench must speak to it.
        environment: Variables that it needs.
    """

    label: str
    command: list[str]
    bench: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def qllm(model: str, dtype: str, num_threads: int, ls_tpot_ms: float) -> Server:
    """Serves with this project, over its OpenAI-compatible endpoint.

    Args:
        model: Directory of the model.
        dtype: Type to compute in.
        num_threads: Threads of the worker; 0 is what it chooses.
        ls_tpot_ms: Milliseconds between tokens of a latency-sensitive request up to which best-effort work rides; 0 is
            off.
    """
    ports = ["--grpc-port", "0", "--http-port", str(_PORT)]
    command = [sys.executable, "-m", "scheduler_svc", "--model", model, "--spawn-worker", *ports]
    label, environment = "QLLM", {}
    if num_threads:
        label, environment = f"QLLM {num_threads} threads", {"QLLM_THREADS": str(num_threads)}
    if ls_tpot_ms:
        label += f" tpot {ls_tpot_ms:g}"
        command += ["--ls-tpot-ms", f"{ls_tpot_ms:g}"]
    command += ["--", "--dtype", dtype]
    return Server(label, command, ["--priority-field", "service_tier"], environment)


def vllm(venv: Path, model: str, dtype: str, token_budget: int, cores: str | None) -> Server:
    """Serves with vLLM on CPU and its priority scheduler.

    Args:
        venv: Where vLLM is installed.
        model: Directory of the model.
        dtype: Type to compute in.
        token_budget: Most tokens of an iteration; its default is 2048.
        cores: Cores that compute, such as "0-1"; None is its default, which leaves one to the rest of it.
    """
    command = [str(venv / "bin/vllm"), "serve", model, "--host", "127.0.0.1", "--port", str(_PORT)]
    command += ["--scheduling-policy", "priority", "--dtype", dtype, "--max-model-len", "4096"]
    command += ["--max-num-batched-tokens", str(token_budget)]
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
    """Runs a server until the block is left, in a session of its own so that all of its processes end with it."""
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


def _wait_until_serving(process: "subprocess.Popen[bytes]", log_path: Path) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise typer.BadParameter(f"a server ended with exit code {process.returncode}; its log is {log_path}")
        health = f"http://127.0.0.1:{_PORT}/health"
        with contextlib.suppress(urllib.error.URLError, ConnectionError), directly.open(health, timeout=5):
            return
        time.sleep(_POLL_S)
    raise typer.BadParameter(f"a server did not serve within {_START_TIMEOUT_S:.0f} s; its log is {log_path}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _bench(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "client", "bench", *arguments], check=True)


def peers(
    model: Annotated[
        Path, typer.Option(exists=True, file_okay=False, resolve_path=True, help="Directory of the model.")
    ],
    output: Annotated[Path, typer.Option(help="Directory for results, logs and the comparison.")],
    vllm_venv: Annotated[Path | None, typer.Option("--vllm", exists=True, help="Virtual environment of vLLM.")] = None,
    vllm_budget: Annotated[list[int] | None, typer.Option(help="Its token budgets. [default: 2048, 256, 128]")] = None,
    vllm_cores: Annotated[
        list[str] | None, typer.Option(help='Cores that it computes on, such as "0-1". [default: its own]')
    ] = None,
    qllm_tpot_ms: Annotated[
        list[float] | None, typer.Option(min=0, help="--ls-tpot-ms of QLLM's scheduler; 0: off.")
    ] = None,
    qllm_threads: Annotated[
        list[int] | None, typer.Option(min=0, help="Threads of QLLM's worker; 0: its own choice. [default: 0]")
    ] = None,
    transformers_venv: Annotated[
        Path | None, typer.Option("--transformers", exists=True, help="Virtual environment of transformers[serving].")
    ] = None,
    dtype: Annotated[DType, typer.Option(help="Type that all compute in; auto: what each chooses.")] = DType.FLOAT32,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 1,
    bench_argument: Annotated[
        list[str] | None, typer.Argument(help="Options of `qllm-client bench`, after --.")
    ] = None,
) -> None:
    """Measures QLLM and its peers under the same load, and compares them."""
    output.mkdir(parents=True, exist_ok=True)
    source = str(model)
    servers = [qllm(source, dtype, number, ms) for number in qllm_threads or (0,) for ms in qllm_tpot_ms or (0.0,)]
    if vllm_venv is not None:
        settings = product(vllm_budget or (2048, 256, 128), vllm_cores or (None,))
        servers += [vllm(vllm_venv, source, dtype, *setting) for setting in settings]
    if transformers_venv is not None:
        servers.append(transformers(transformers_venv, source, dtype))
    results: list[Path] = []
    for number in range(rounds):
        for server in servers:
            name = f"{server.label.replace(' ', '-').lower()}-{number}"
            with running(server, output / f"{name}.log"):
                print(f"--- {server.label}, round {number + 1} of {rounds}", flush=True)
                result = output / f"{name}.json"
                where = ["--http", f"http://127.0.0.1:{_PORT}", "--label", server.label, "--json", str(result)]
                _bench(*where, "--prompt-form", "text", *server.bench, *(bench_argument or []))
                results.append(result)
    comparison = [str(output / "comparison.png"), str(output / "comparison.html")]
    _bench("compare", *map(str, results), "--png", comparison[0], "--html", comparison[1])


if __name__ == "__main__":
    typer.run(peers)
