"""Has clients of other languages talk to a real service, from the protos alone: `python -m tests.contracts`.

They are set up in `build/contracts`, with the versions that their lock files name. Needs Node 20 or newer with npm, and
a network at the first run; there is neither in CI, so these are not among the tests.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from tests.support.security.api_keys import bearer, entry, write_keys
from tests.support.security.certificates import Authority
from tests.support.service.live_service import ROOT, start_service
from tests.support.service.simulated_worker import slow_worker

HERE, BUILT = Path(__file__).parent, ROOT / "build" / "contracts"
_KEY = "qllm_contract"


def main() -> int:
    """Runs all contracts; returns the exit code."""
    if missing := [program for program in ("node", "npm") if shutil.which(program) is None]:
        sys.exit(f"tests.contracts: {' and '.join(missing)} not found; on Debian: apt install nodejs npm")
    node = _set_up("node")
    with _service() as where:
        return subprocess.run(
            ["npm", "test", "--silent"], cwd=node, env={**os.environ, **where}, check=False
        ).returncode


def _set_up(name: str) -> Path:
    """Returns a copy of a contract with the packages that it needs."""
    built = BUILT / name
    shutil.copytree(HERE / name, built, dirs_exist_ok=True)
    subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=built, check=True)
    return built


@contextmanager
def _service() -> Iterator[dict[str, str]]:
    """Starts a service with TLS, API keys and jobs; yields the environment that says where it is."""
    with tempfile.TemporaryDirectory(prefix="qllm-contracts-") as name:
        directory = Path(name)
        authority = Authority(directory, "ca")
        pair = authority.issue("server")
        keys = write_keys(directory / "keys.toml", entry("contract", _KEY, ["generate", "observe"]))
        options = {"tls-cert": pair.cert, "tls-key": pair.key, "api-keys": keys, "state-dir": directory / "state"}
        with start_service(
            ROOT / "demo" / "model",
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
