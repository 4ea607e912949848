import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from scripts.gpu_proof.record import Log
from scripts.gpu_proof.step_process import StepProcess, end_leftovers

UNRULY = "tests.unit.scripts.gpu_proof.unruly_child"
ROOT = Path(__file__).parents[4]
LONG_S = 60.0


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "log.txt")
    yield log
    log.close()


@pytest.fixture
def process(log: Log) -> Iterator[StepProcess]:
    process = StepProcess({**os.environ, "PYTHONPATH": str(ROOT)}, ROOT, log, module=UNRULY)
    yield process
    process.kill()


def run(process: StepProcess, what: str, box_s: float = LONG_S) -> tuple[str, str, dict[str, Any]]:
    figures: dict[str, Any] = {}

    def take(message: Mapping[str, Any]) -> None:
        figures[message["figure"]] = message["values"]

    return *process.run({"step": what}, box_s, take), figures


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_process_runs_one_step_after_another(process: StepProcess) -> None:
    first, second = run(process, "passes"), run(process, "fails")
    assert first[:2] == ("passed", "")
    assert second[:2] == ("failed", "two is not three")
    assert first[2]["passes"] == second[2]["fails"]
    assert process.is_alive()


def test_a_crash_is_named_by_its_signal_with_the_last_words_and_keeps_the_figures(process: StepProcess) -> None:
    status, error, figures = run(process, "crashes")
    assert status == "crashed"
    assert "SIGSEGV" in error
    assert "crashes" in figures
    assert not process.is_alive()


def test_a_hang_ends_with_its_box_says_where_it_stood_and_leaves_no_process_behind(
    process: StepProcess, log: Log
) -> None:
    began_s = time.monotonic()
    status, error, figures = run(process, "hangs", box_s=2.0)
    assert (status, figures["hangs"]["pid"]) == ("timed out", process.pid)
    assert "2 s" in error
    assert time.monotonic() - began_s < LONG_S
    assert "unruly_child.py" in log.last_lines(20)  # the traceback
    assert not is_running(figures["hangs"]["pid"])
    assert not is_running(figures["orphan"]["pid"])


def test_a_step_that_lost_its_device_leaves_no_process_for_the_next_one(process: StepProcess) -> None:
    status, error, _ = run(process, "loses its device")
    assert (status, error) == ("failed", "gone")
    assert not process.is_alive()


def test_a_step_that_ends_in_the_middle_of_a_line_has_crashed(process: StepProcess) -> None:
    status, error, _ = run(process, "stops in a line")
    assert status == "crashed"
    assert "exit code 3" in error


def test_processes_of_others_survive_the_end_of_a_step_s(process: StepProcess) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as other:
        run(process, "passes")
        process.kill()
        assert other.poll() is None
        other.kill()


def test_what_a_proof_that_is_gone_has_left_running_is_ended_and_that_of_one_that_runs_is_not() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    started = []
    for pid in (gone.pid, os.getpid()):
        environment = {**os.environ, "QLLM_PROOF_TOKEN": f"{pid}:1"}
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env=environment))
    left, kept = started
    try:
        end_leftovers()
        assert left.wait(LONG_S) == -signal.SIGKILL
        assert kept.poll() is None
    finally:
        kept.kill()
        kept.wait()


def test_what_a_step_left_running_ends_when_its_process_is_closed(process: StepProcess) -> None:
    status, _, figures = run(process, "leaves")
    assert status == "passed"
    process.close()
    assert not is_running(figures["orphan"]["pid"])
