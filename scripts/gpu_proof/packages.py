"""Which packages a machine lacks, and how they are carried there as wheels. Standard library alone."""

import re
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_TESTS = ("pytest", "pytest-asyncio", "hypothesis")  # of the extra dev, what tests/gpu needs
_UNUSED = ("accelerate", "bitsandbytes")  # of the extra worker: they quantize, which no step does
_TOO_LARGE = ("torch", "transformers")  # a machine without these is the wrong one
# Their stubs and runtimes are of one version: carrying one of them means carrying all.
_TOGETHER = frozenset({"grpcio", "grpcio-health-checking", "grpcio-reflection", "googleapis-common-protos", "protobuf"})
_REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)(?:\[[^]]*\])?(?:>=(?P<low>[0-9.]+))?")
_DATA = re.compile(r"^[^/]+\.data/(?:purelib|platlib)/")
_SKIPPED = re.compile(r"^[^/]+\.data/")


@dataclass(frozen=True, slots=True)
class Need:
    """A package that the proof needs.

    Attributes:
        name: Its name.
        low: Lowest version that will do; empty for any.
        found: The version that is there; empty if it is missing.
    """

    name: str
    low: str
    found: str

    @property
    def is_met(self) -> bool:
        """Whether a version that will do is there."""
        return bool(self.found) and _numbers(self.found) >= _numbers(self.low)

    def __str__(self) -> str:
        wanted = f"{self.name} {self.low} or newer" if self.low else self.name
        return f"{wanted}: {f'{self.found} is too old' if self.found else 'missing'}"


def needs(path: Sequence[str]) -> list[Need]:
    """What the proof needs, looked for on an import path."""
    return [Need(name, low, _version(name, path)) for name, low in _requirements()]


def download_command(unmet: Sequence[Need]) -> str:
    """The command that fetches what is missing, and what that needs, as wheels, on a machine with a package index."""
    names = {need.name.lower() for need in unmet} - set(_TOO_LARGE)
    if names & _TOGETHER:
        names |= _TOGETHER
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    platforms = " ".join(f"--platform manylinux_{glibc}_x86_64" for glibc in ("2_17", "2_27", "2_28", "2_34"))
    return (
        f"python3 -m pip download --only-binary=:all: --python-version {python} --implementation cp {platforms} "
        f"--platform manylinux2014_x86_64 -c constraints.txt -d wheels {' '.join(sorted(names))}"
    )


def unpack_wheels(wheels: Path, site: Path) -> list[str]:
    """Unpacks the wheels of a folder into another; returns what is wrong with them, a line each."""
    files = sorted(wheels.glob("*.whl"))
    if not files:
        return [f"--wheels: there is no *.whl in {wheels}"]
    complaints = []
    for file in files:
        if not _fits(file.stem):
            complaints.append(f"--wheels: {file.name} is for another Python than {sys.version.split()[0]}")
            continue
        try:
            _unpack(file, site)
        except (OSError, zipfile.BadZipFile) as error:
            complaints.append(f"--wheels: {file.name} cannot be unpacked: {error}")
    return complaints


def _unpack(file: Path, site: Path) -> None:
    with zipfile.ZipFile(file) as wheel:
        for member in wheel.infolist():
            name = _DATA.sub("", member.filename)
            if not _SKIPPED.match(name):  # scripts and headers, which nobody imports
                member.filename = name
                wheel.extract(member, site)


def _fits(stem: str) -> bool:
    """Whether a wheel of a name such as greenlet-3.5.6-cp312-cp312-manylinux_2_28_x86_64 is for this Python."""
    pythons, abi = (tag.split(".") for tag in stem.split("-")[-3:-1])
    own = sys.version_info[:2]
    for python in pythons:
        match = re.fullmatch(r"(py|cp)(\d)(\d*)", python)
        if match and int(match[2]) == own[0]:
            minor = int(match[3] or 0)
            if minor <= own[1] and (match[1] == "py" or "abi3" in abi or minor == own[1]):
                return True
    return False


def _requirements() -> Iterator[tuple[str, str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    tests = [line for line in extras["dev"] if line.startswith(_TESTS)]
    for line in (*project["dependencies"], *extras["worker"], *tests):
        match = _REQUIREMENT.match(line)
        if match and match["name"] not in _UNUSED:
            yield match["name"], match["low"] or ""


def _version(name: str, path: Sequence[str]) -> str:
    found = next(iter(metadata.distributions(name=name, path=list(path))), None)
    return found.version if found else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+")[0])[:3])
