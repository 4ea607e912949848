"""The step that runs the tests marked gpu, over folders of tests that pass, fail and hang."""

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.gpu_proof.steps import gpu_tests
from scripts.gpu_proof.steps.gpu_tests import FOLDERS, Outcomes, run_tests

HEADER = "import ctypes, pytest\npytestmark = pytest.mark.gpu\n"
PASSES = "def test_passes(): pass\n"
FAILS = "def test_fails(): assert 1 == 2, 'one is not two'\n"
# In C, with Python's signals held up, as a call of a device that never answers.
HANGS = "def test_hangs(): ctypes.PyDLL(None).sleep(600)\n"
LATER = "def test_later(): pass\n"
LONG_S = 300.0
ROOT = gpu_tests.ROOT
WORKER = ROOT / "tests" / "unit" / "gpu_worker"


class Kept:
    """A report that keeps what it is told."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self.notes: list[str] = []

    def figure(self, name: str, /, **values: Any) -> None:
        self.figures[name] = values

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Kept, Outcomes, list[bool]]]:
    def run(*tests: str, test_s: float = 60, seconds: float = LONG_S) -> tuple[Kept, Outcomes, list[bool]]:
        monkeypatch.setattr(gpu_tests, "_TEST_S", test_s)
        monkeypatch.setattr(gpu_tests, "ROOT", tmp_path)
        folder = tmp_path / "some"
        folder.mkdir(exist_ok=True)
        (folder / "test_it.py").write_text(HEADER + "".join(tests))
        (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs a device\n")
        report = Kept()
        outcomes = Outcomes(report)  # type: ignore[arg-type]  # all that it asks of one
        died = []
        while run_tests([folder], outcomes, tmp_path / f"{len(died)}.xml", seconds):
            died.append(True)
        return report, outcomes, died

    return run


def test_outcomes_are_counted_reasons_kept_and_junit_s_xml_written(
    ran: Callable[..., tuple[Kept, Outcomes, list[bool]]], tmp_path: Path
) -> None:
    report, outcomes, died = ran(PASSES, FAILS, LATER)
    assert report.figures["tests"] == {"passed": 2, "failed": 1, "error": 0, "hung": 0, "skipped": 0}
    assert (outcomes.num_failed, died) == (1, [])
    assert "test_fails" in report.notes[0]
    assert "one is not two" in report.notes[0]
    assert "test_fails" in (tmp_path / "0.xml").read_text()


def test_a_test_that_hangs_where_no_signal_reaches_it_costs_itself_alone(
    ran: Callable[..., tuple[Kept, Outcomes, list[bool]]],
) -> None:
    report, _, died = ran(PASSES, HANGS, LATER, test_s=10)
    assert report.figures["tests"] == {"passed": 2, "failed": 0, "error": 0, "hung": 1, "skipped": 0}
    assert died == [True]
    assert any("test_hangs" in note for note in report.notes)


def test_words_of_a_crash_that_come_in_pieces_are_no_part_of_the_name_of_the_test_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing = tmp_path / "pytest_that_crashes"
    pieces = ("some/test_it.py::test_hangs[a b] ", "Fatal Python error: ", "Aborted\\n")
    crashing.write_text("#!/bin/sh\n" + "".join(f"printf '{piece}'; sleep 0.3\n" for piece in pieces) + "exit 134\n")
    crashing.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(crashing))
    outcomes = Outcomes(Kept())  # type: ignore[arg-type]  # all that it asks of one
    assert run_tests([tmp_path], outcomes, tmp_path / "0.xml", LONG_S)
    assert (outcomes.seen, outcomes.counts["hung"]) == (["some/test_it.py::test_hangs[a b]"], 1)


def test_a_test_that_the_step_s_end_cuts_off_is_not_called_hung(
    ran: Callable[..., tuple[Kept, Outcomes, list[bool]]],
) -> None:
    for seconds in (5, 20, 80):  # on a slow machine pytest takes its time to come to the test
        report, outcomes, died = ran(PASSES, "def test_long(): ctypes.CDLL(None).sleep(600)\n", LATER, seconds=seconds)
        if " while " in outcomes.trouble:
            break
    assert report.figures["tests"]["hung"] == 0
    assert "its time was over while some/test_it.py::test_long ran" in outcomes.trouble
    assert died == []


def test_tests_that_cannot_be_read_are_trouble(ran: Callable[..., tuple[Kept, Outcomes, list[bool]]]) -> None:
    _, outcomes, died = ran(PASSES, "import nothing_of_this_name\n")
    assert "pytest ended with code 2" in outcomes.trouble
    assert died == []


def test_the_step_s_folders_hold_all_files_with_tests_that_are_marked_gpu() -> None:
    files = (file for folder in (ROOT / "tests" / "gpu", WORKER) for file in folder.rglob("test_*.py"))
    marked = {file for file in files if has_marked_tests(file)}
    assert {file for file in marked if not any(file.is_relative_to(folder) for folder in FOLDERS)} == set()
    assert len(marked) >= 6


def has_marked_tests(file: Path) -> bool:
    """Whether a file names the mark, or has a test that takes the fixture `device`, which is marked for CUDA."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names_mark = any(isinstance(node, ast.Attribute) and node.attr == "gpu" for node in nodes)
    constants = (node.value for node in nodes if isinstance(node, ast.Constant))
    gives_devices = any(value == "device" for value in constants)  # by values of its own
    tests = (node for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))
    takes_device = any("device" in {argument.arg for argument in test.args.args} for test in tests)
    return names_mark or (takes_device and not gives_devices)
