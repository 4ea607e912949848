"""Environments of clients in Python: made once, and anew when what is to be in them changes."""

import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path


def python_with(directory: Path, packages: Sequence[str]) -> Path:
    """Returns the interpreter of an environment with these packages, which are installed where it is missing."""
    stamp, python, wanted = directory / "packages", directory / "bin" / "python", "\n".join(packages)
    if not stamp.exists() or stamp.read_text() != wanted:
        venv.create(directory, clear=True, with_pip=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, *packages], check=True)
        stamp.write_text(wanted)
    return python
