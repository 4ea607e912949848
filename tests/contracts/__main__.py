"""Has clients of others talk to a real service: `python -m tests.contracts [NAME ...]`.

    node/         another language's gRPC, from the protos alone, with TLS, API keys and jobs
    clients/*.py  programs of the Python world, over HTTP: one contract a file, which ends with code 0 where it is kept

They are set up in `build/contracts`: Node's packages as its lock file names them, Python's of requirements.txt in an
environment of their own. Needs a network at the first run, and for node Node 20 or newer with npm; neither is in CI, so
these are not among the tests.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from tests.contracts.python_environment import python_with
from tests.support.security.api_keys import bearer, entry, write_keys
from tests.support.security.certificates import Authority
from tests.support.service.live_service import ROOT, free_port, start_service
from tests.support.service.simulated_worker import slow_worker

HERE, BUILT = Path(__file__).parent, ROOT / "build" / "contracts"
MODEL = ROOT / "demo" / "model"
CLIENTS = {script.stem: script for script in sorted((HERE / "clients").glob("*.py"))}
_KEY = "qllm_contract"


def main() -> int:
    """Runs the contracts that are named, or all; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.contracts", description="Has clients of others talk to us.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of node, {', '.join(CLIENTS)}; all without any")
    names = parser.parse_args().names or ["node", *CLIENTS]
    if unknown := set(names) - {"node", *CLIENTS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are node, {', '.join(CLIENTS)}")
    scripts = [CLIENTS[name] for name in names if name in CLIENTS]
    failed = [] if not scripts else _run_clients(scripts)
    failed += ["node"] if "node" in names and _run_node() else []
    print(*(f"{name}: {'failed' if name in failed else 'kept'}" for name in names), sep="\n")
    return 1 if failed else 0


# ---- Python


def _run_clients(scripts: list[Path]) -> list[str]:
    """Runs scripts against one service; returns the names of those that failed."""
    python = python_with(BUILT / "clients", _packages())
    with tempfile.TemporaryDirectory(prefix="qllm-contracts-") as name:
        port = free_port()
        with start_service(MODEL, Path(name) / "log", "--http-port", str(port)) as live:
            where = {
                "QLLM_HTTP": f"http://127.0.0.1:{port}/v1",
                "QLLM_ADDRESS": live.grpc_address,
                "QLLM_MODEL": live.model_facts.name,
                "QLLM_MODEL_DIR": str(MODEL),
            }
            ended = {
                script.stem: subprocess.run([python, script], env={**os.environ, **where}, check=False).returncode
                for script in scripts
            }
    return [name for name, code in ended.items() if code]


def _packages() -> list[str]:
    lines = (HERE / "requirements.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


# ---- Node


def _run_node() -> int:
    """Returns the exit code of Node's tests."""
    if missing := [program for program in ("node", "npm") if shutil.which(program) is None]:
        sys.exit(f"tests.contracts: {' and '.join(missing)} not found; on Debian: apt install nodejs npm")
    built = BUILT / "node"
    shutil.copytree(HERE / "node", built, dirs_exist_ok=True)
    subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=built, check=True)
    with _guarded_service() as where:
        command = ["npm", "test", "--silent"]
        return subprocess.run(command, cwd=built, env={**os.environ, **where}, check=False).returncode


@contextmanager
def _guarded_service() -> Iterator[dict[str, str]]:
    """Starts a service with TLS, API keys and jobs; yields the environment that says where it is."""
    with tempfile.TemporaryDirectory(prefix="qllm-contracts-") as name:
        directory = Path(name)
        authority = Authority(directory, "ca")
        pair = authority.issue("server")
        keys = write_keys(directory / "keys.toml", entry("contract", _KEY, ["generate", "observe"]))
        options = {"tls-cert": pair.cert, "tls-key": pair.key, "api-keys": keys, "state-dir": directory / "state"}
        with start_service(
            MODEL,
            directory / "log",
            *(f"--{option}={value}" for option, value in options.items()),
            worker_options=slow_worker(directory),
            credentials=grpc.ssl_channel_credentials(authority.cert.read_bytes()),
            metadata=bearer(_KEY),
        ) as live:
            yield {
                "QLLM_ADDRESS": live.grpc_address,
                "QLLM_TLS_CA": str(authority.cert),
                "QLLM_API_KEY": _KEY,
                "QLLM_PROTOS": str(ROOT / "protos"),
            }


if __name__ == "__main__":
    sys.exit(main())
