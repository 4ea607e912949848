"""Which packages a machine lacks, and how they are carried there as wheels. Standard library alone."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_TESTS = ("pytest", "pytest-asyncio", "pytest-timeout", "hypothesis")  # of the extra dev, what tests/gpu needs
_OPTIONAL = {"bitsandbytes": "quantized experts are not tried", "accelerate": "quantized experts are not tried"}
# Their stubs and runtimes are of one version: carrying one of them means carrying all.
_TOGETHER = frozenset({"grpcio", "grpcio-health-checking", "grpcio-reflection", "googleapis-common-protos", "protobuf"})
_REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)(?:\[[^]]*\])?(?:>=(?P<low>[0-9.]+))?")


@dataclass(frozen=True, slots=True)
class Need:
    """A package that the proof needs.

    Attributes:
        name: Its name.
        low: Lowest version that will do; empty for any.
        found: The version that is there; empty if it is missing.
        without: What is left out without it; empty if steps fail without it.
    """

    name: str
    low: str
    found: str
    without: str

    @property
    def is_met(self) -> bool:
        """Whether a version that will do is there."""
        return bool(self.found) and _numbers(self.found) >= _numbers(self.low)

    def __str__(self) -> str:
        found = f"{self.found} is too old" if self.found else "missing"
        return f"{self.name} {self.low} or newer: {found}{f' ({self.without})' if self.without else ''}"


def needs(path: Sequence[str]) -> list[Need]:
    """What the proof needs, looked for on an import path."""
    return [Need(name, low, _version(name, path), _OPTIONAL.get(name.lower(), "")) for name, low in _requirements()]


def download_command(unmet: Sequence[Need]) -> str:
    """The command that fetches wheels of what is missing, on a machine that has a package index."""
    names = {need.name.lower() for need in unmet}
    if names & _TOGETHER:
        names |= _TOGETHER
    pins = dict(_pins())
    wanted = " ".join(f"{name}=={pins[name]}" if name in pins else name for name in sorted(names))
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    platforms = " ".join(f"--platform manylinux_{glibc}_x86_64" for glibc in ("2_17", "2_27", "2_28", "2_34"))
    return (
        f"python3 -m pip download --no-deps --only-binary=:all: --python-version {python} --implementation cp {platforms} "
        f"--platform manylinux2014_x86_64 -d wheels {wanted}"
    )


def install_wheels(wheels: Path, site: Path) -> str:
    """Unpacks the wheels of a folder into another; returns what went wrong, or nothing."""
    files = sorted(str(file) for file in wheels.glob("*.whl"))
    if not files:
        return f"--wheels: there is no *.whl in {wheels}"
    options = ("--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(site), *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"--wheels: pip refuses them: {done.stderr.strip()[-500:]}"


def _requirements() -> Iterator[tuple[str, str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    tests = [line for line in extras["dev"] if line.startswith(_TESTS)]
    for line in (*project["dependencies"], *extras["worker"], *tests):
        if match := _REQUIREMENT.match(line):
            yield match["name"], match["low"] or ""


def _pins() -> Iterator[tuple[str, str]]:
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, separator, version = line.partition("==")
        if separator:
            yield name.lower(), version.strip()


def _version(name: str, path: Sequence[str]) -> str:
    found = next(iter(metadata.distributions(name=name, path=list(path))), None)
    return found.version if found else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+")[0])[:3])
