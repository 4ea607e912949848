"""What `make setup` does with the environment that is there, among stub interpreters."""

from pathlib import Path

import pytest

from tests.unit.scripts.stub_interpreters import Machine


def made(machine: Machine, *named: str) -> str:
    """What was run to make the environment; nothing if the one that is there was kept."""
    done = machine.run("make_environment.sh", str(environment(machine)), *named)
    assert (done.returncode, done.stderr) == (0, "")
    if not done.stdout:
        return ""
    told, ran = done.stdout.splitlines()
    interpreter, *arguments = told.split()
    assert Path(interpreter).parent == machine.directory / "bin"
    assert ran == f"made {' '.join(arguments)}"
    return told.removesuffix(f" {environment(machine)}")


def environment(machine: Machine) -> Path:
    return machine.directory / "environment"


def set_up(machine: Machine, version: str, *, lacks: str = "") -> None:
    """Makes an environment by hand, of an interpreter that can't run if there is no version."""
    machine.install("python", version, lacks=lacks, folder="environment/bin")
    (environment(machine) / "pyvenv.cfg").touch()


def test_an_environment_is_made_where_there_is_none(machine: Machine) -> None:
    python3 = machine.install("python3", "3.12")
    assert made(machine) == f"{python3} -m venv"


def test_an_environment_that_will_do_is_kept_even_where_there_are_newer_interpreters(machine: Machine) -> None:
    set_up(machine, "3.11")
    python3 = machine.install("python3", "3.13")
    other = machine.install("other", "3.11")
    assert made(machine) == ""
    assert made(machine, other) == ""
    assert made(machine, python3) == f"{python3} -m venv --clear"


@pytest.mark.parametrize(("version", "lacks"), [("", ""), ("3.9", ""), ("3.12", "pip")])
def test_an_environment_that_will_not_do_is_made_anew_from_nothing(machine: Machine, version: str, lacks: str) -> None:
    set_up(machine, version, lacks=lacks)
    python3 = machine.install("python3", "3.12")
    assert made(machine) == f"{python3} -m venv --clear"


def test_an_environment_whose_interpreter_is_gone_is_made_anew_from_nothing(machine: Machine) -> None:
    set_up(machine, "3.12")
    python = environment(machine) / "bin" / "python"
    python.unlink()
    python.symlink_to(machine.directory / "gone")
    python3 = machine.install("python3", "3.12")
    assert made(machine) == f"{python3} -m venv --clear"


def test_a_folder_that_is_no_environment_is_not_emptied(machine: Machine) -> None:
    environment(machine).mkdir()
    python3 = machine.install("python3", "3.12")
    assert made(machine) == f"{python3} -m venv"


def test_a_named_interpreter_that_will_not_do_is_refused_though_the_environment_would(machine: Machine) -> None:
    set_up(machine, "3.12")
    old = machine.install("python3.9", "3.9")
    done = machine.run("make_environment.sh", str(environment(machine)), old)
    assert (done.returncode, done.stdout) == (2, "")
    assert "python3.9 is Python 3.9. QLLM needs Python 3.11 or newer" in done.stderr
