"""Interpreters that only say what they are, and the scripts of `make setup` among them."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).parents[3] / "scripts"
TOOLS = ("cut", "dirname", "sed", "sh", "sort", "tr")


@dataclass
class Machine:
    """A PATH with nothing on it but the script's own tools and stub interpreters."""

    directory: Path

    def __post_init__(self) -> None:
        tools = self.directory / "tools"
        tools.mkdir()
        for name in TOOLS:
            (tools / name).symlink_to(str(shutil.which(name)))

    def install(self, name: str, version: str = "", *, lacks: str = "", folder: str = "bin") -> str:
        """Adds a stub, which tells its arguments where it is to make an environment; without a version it can't run."""
        path = self.directory / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        answer = f'case "$2" in "import {lacks}") exit 1;; "import "*\\;*) echo {version};; venv) echo made "$@";; esac'
        path.write_text(f"#!/bin/sh\n{answer if version else 'exit 127'}\n")
        path.chmod(0o755)
        return str(path)

    def find(self, *named: str, folders: Sequence[str] = ("bin",)) -> subprocess.CompletedProcess[str]:
        return self.run("find_python.sh", *named, folders=folders)

    def run(self, script: str, *arguments: str, folders: Sequence[str] = ("bin",)) -> subprocess.CompletedProcess[str]:
        path = ":".join(str(self.directory / folder) for folder in (*folders, "tools"))
        return subprocess.run(
            ["/bin/sh", SCRIPTS / script, *arguments], env={"PATH": path}, capture_output=True, text=True, timeout=100
        )

    def found(self, *named: str, folders: Sequence[str] = ("bin",)) -> str:
        done = self.find(*named, folders=folders)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()

    def refusal(self, *named: str) -> str:
        done = self.find(*named)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        return done.stderr
