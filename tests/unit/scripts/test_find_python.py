"""The interpreter that `make setup` takes, among stubs that only say what they are."""

import pytest

from tests.unit.scripts.stub_interpreters import Machine


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.100", "4.0"])
def test_python3_is_taken_if_it_is_new_enough_even_where_there_are_newer_ones(machine: Machine, version: str) -> None:
    python3 = machine.install("python3", version)
    machine.install("python3.14", "3.14")
    assert machine.found() == python3


@pytest.mark.parametrize("version", ["2.7", "3.9", "3.10", ""])
def test_else_the_newest_numbered_one_is_taken(machine: Machine, version: str) -> None:
    machine.install("python3", version)
    machine.install("python3.9", "3.9")
    machine.install("python3.11", "3.11")
    newest = machine.install("python3.13", "3.13")
    machine.install("python3.13-config", "3.13")
    assert machine.found() == newest


def test_a_shim_of_a_version_that_is_not_installed_is_passed_over(machine: Machine) -> None:
    machine.install("python3.14")
    runs = machine.install("python3.12", "3.12")
    assert machine.found() == runs


def test_one_that_cannot_make_environments_is_passed_over_for_one_that_can(machine: Machine) -> None:
    machine.install("python3", "3.13", lacks="ensurepip")
    can = machine.install("python3.12", "3.12")
    assert machine.found() == can


def test_of_two_with_one_name_the_first_on_the_path_is_taken(machine: Machine) -> None:
    machine.install("python3.12", "3.12", folder="late")
    first = machine.install("python3.12", "3.12", folder="early")
    assert machine.found(folders=("early", "late")) == first


def test_a_folder_with_a_space_in_its_name_is_searched(machine: Machine) -> None:
    path = machine.install("python3.12", "3.12", folder="my tools")
    assert machine.found(folders=("my tools",)) == path


def test_one_that_is_named_is_taken_though_others_would_do(machine: Machine) -> None:
    machine.install("python3", "3.13")
    machine.install("python3.11", "3.11")
    assert machine.found("python3.11") == "python3.11"
    aside = machine.install("mine", "3.12", folder="aside")
    assert machine.found(aside) == aside


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
@pytest.mark.parametrize("named", [(), ("python3",)])
def test_a_missing_module_is_named_with_the_command_that_installs_it(
    machine: Machine, module: str, named: tuple[str, ...]
) -> None:
    machine.install("python3", "3.12", lacks=module)
    machine.install("python3.10", "3.10")
    said = machine.refusal(*named)
    assert f"python3 is Python 3.12, but its module {module} is missing" in said
    assert "apt-get install python3.12-venv." in said


def test_what_was_found_is_said_where_nothing_is_new_enough(machine: Machine) -> None:
    old = machine.install("python3", "3.9"), machine.install("python3.10", "3.10")
    said = machine.refusal()
    assert f"QLLM needs Python 3.11 or newer. Found here: {old[0]} (3.9), {old[1]} (3.10). Install one" in said


def test_a_machine_without_python_is_told_so(machine: Machine) -> None:
    assert "Found here: no Python 3 at all. Install one" in machine.refusal()


def test_a_named_one_that_will_not_do_is_refused_though_others_would(machine: Machine) -> None:
    machine.install("python3", "3.13")
    machine.install("python3.9", "3.9")
    machine.install("python3.14")
    assert "there is no python3.99 here. QLLM needs Python 3.11 or newer" in machine.refusal("python3.99")
    assert "python3.9 is Python 3.9. QLLM needs Python 3.11 or newer" in machine.refusal("python3.9")
    assert "python3.14 cannot be run. QLLM needs Python 3.11 or newer" in machine.refusal("python3.14")
