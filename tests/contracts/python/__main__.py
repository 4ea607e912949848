"""Has Python's frameworks call functions of a real model, over HTTP: `python -m tests.contracts.python [NAME ...]`.

Each file here is a contract, and names the packages that it needs, with their versions, in the comment that it begins
with (PEP 723). It runs in an environment of its own in `build/contracts`. Needs a network at the first run, so that
these are not among the tests.
"""

import os
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from tests.contracts.python_environment import python_with
from tests.support.models.tool_checkpoint import write_tool_checkpoint
from tests.support.service.live_service import ROOT, free_port, start_service

HERE, BUILT = Path(__file__).parent, ROOT / "build" / "contracts"


def main(names: list[str]) -> int:
    """Runs the contracts of these names, or all; returns the exit code."""
    contracts = [path for path in sorted(HERE.glob("[a-z]*.py")) if not names or path.stem in names]
    with tempfile.TemporaryDirectory(prefix="qllm-contracts-") as name:
        directory, port = Path(name), free_port()
        with start_service(write_tool_checkpoint(directory), directory / "log", "--http-port", str(port)):
            failed = [path.stem for path in contracts if not _holds(path, f"http://127.0.0.1:{port}/v1")]
    return 1 if failed else 0


def _holds(contract: Path, url: str) -> bool:
    """Runs a contract, and says how it went."""
    python, began_s = python_with(BUILT / "python" / contract.stem, _packages(contract)), time.monotonic()
    # Without PYTHONPATH: a client finds what it needs, and nothing of ours.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([python, contract], env={**environment, "QLLM_URL": url}, check=False)
    end = "ok" if done.returncode == 0 else "FAILED"
    sys.stdout.write(f"{contract.stem}: {end} ({time.monotonic() - began_s:.0f} s)\n")
    return done.returncode == 0


def _packages(contract: Path) -> list[str]:
    block = contract.read_text().split("# ///", 2)[1].partition("\n")[2]
    metadata = tomllib.loads("\n".join(line.removeprefix("# ") for line in block.splitlines()))
    packages: list[str] = metadata["dependencies"]
    return packages


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
