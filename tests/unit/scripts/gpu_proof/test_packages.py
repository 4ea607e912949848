import sys
import zipfile
from pathlib import Path

import pytest

from scripts.gpu_proof.packages import Need, _fits, download_command, needs, unpack_wheels


def write_wheel(folder: Path, name: str, version: str) -> None:
    """A wheel of one module, as pip takes it."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def test_where_the_project_is_set_up_nothing_is_missing() -> None:
    assert [str(need) for need in needs(sys.path) if not need.is_met] == []


def test_on_a_bare_machine_everything_is_missing_by_name_torch_too(tmp_path: Path) -> None:
    unmet = {need.name for need in needs([str(tmp_path)]) if not need.is_met}
    assert {"torch", "transformers", "greenlet", "pyzmq", "grpcio", "pytest-asyncio"} <= unmet


def test_versions_are_compared_as_numbers_and_local_parts_do_not_count() -> None:
    assert Need("torch", "2.11", "2.11.0+cu130").is_met
    assert Need("torch", "2.9", "2.11.0").is_met
    assert not Need("torch", "2.11", "2.9.1").is_met
    assert "2.9.1 is too old" in str(Need("torch", "2.11", "2.9.1"))


def test_the_download_command_pins_what_ci_runs_and_takes_grpc_s_packages_together_but_never_torch() -> None:
    unmet = [Need("grpcio-reflection", "1.80", ""), Need("greenlet", "3.2", ""), Need("torch", "2.11", "")]
    command = download_command(unmet)
    assert "-c constraints.txt" in command
    words = command.split()
    assert {"greenlet", "grpcio", "grpcio-health-checking", "grpcio-reflection", "protobuf"} <= set(words)
    assert "torch" not in words
    assert "--no-deps" not in words  # what is missing may need something that is missing too


def test_wheels_of_a_folder_are_found_before_what_is_installed(tmp_path: Path) -> None:
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    wheels.mkdir()
    write_wheel(wheels, "greenlet", "99.0")
    assert unpack_wheels(wheels, site) == []
    assert next(need for need in needs([str(site), *sys.path]) if need.name == "greenlet").found == "99.0"
    assert (site / "greenlet.py").exists()


def test_a_folder_without_wheels_is_named(tmp_path: Path) -> None:
    assert str(tmp_path) in unpack_wheels(tmp_path, tmp_path / "site")[0]


def test_a_wheel_for_another_python_is_named_and_the_others_are_unpacked(tmp_path: Path) -> None:
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    wheels.mkdir()
    write_wheel(wheels, "fits", "1.0")
    write_wheel(wheels, "other", "1.0")
    (wheels / "other-1.0-py3-none-any.whl").rename(wheels / "other-1.0-cp399-cp399-manylinux_2_28_x86_64.whl")
    (complaint,) = unpack_wheels(wheels, site)
    assert "other-1.0-cp399" in complaint
    assert (site / "fits.py").exists()
    assert not (site / "other.py").exists()


@pytest.mark.parametrize(
    ("tags", "fits"),
    [
        ("py3-none-any", True),
        ("py2.py3-none-any", True),
        ("cp{now}-cp{now}-linux", True),
        ("cp38-abi3-linux", True),
        ("cp38-cp38-linux", False),
        ("py2-none-any", False),
        ("cp399-abi3-linux", False),
    ],
)
def test_a_wheel_s_name_says_whether_it_is_for_this_python(tags: str, fits: bool) -> None:
    now = f"{sys.version_info.major}{sys.version_info.minor}"
    assert _fits(f"name-1.0-{tags.format(now=now)}") is fits
