"""The tests marked gpu, whose outcomes are kept as each ends; one that hangs in a device's call costs itself alone."""

import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.gpu_proof.child import Report, StepFailed, Task
from scripts.gpu_proof.packages import ROOT
from scripts.gpu_proof.step_process import end_with_parent

_MOST_FAILURES = 10
_MOST_RUNS = 4  # pytest begins anew after a test that ended it
_TEST_S = 40.0
_ENDING_S = 5.0
_MOST_REASON = 300
# Python's fault handler says what killed a process behind the test's name, in pieces.
_BEGUN = re.compile(
    r"^(?P<test>\S+::.+?) (?:(?P<outcome>PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b.*|Fatal Python error: .*)?$"
)
_REASON = re.compile(r"^(?:FAILED|ERROR) (?P<test>\S+?::.+?) - (?P<why>.*)")
_WORDS = {"XFAIL": "skipped"}
_ENDED_BY_ITSELF = (0, 1, 5)  # pytest's exit codes: all passed, some failed, none was selected

# The path on a device first; then what runs on a CPU too, whatever of it is marked gpu.
_PLACES = ("gpu", "unit/gpu_worker/execution", "unit/gpu_worker/replay", "unit/gpu_worker/machine")
FOLDERS = tuple(ROOT / "tests" / place for place in _PLACES)


def run(task: Task) -> None:
    """Runs them, the whole path's first, ten failures at most; JUnit's XML goes to gpu_tests-NUMBER.xml."""
    outcomes = Outcomes(task.report)
    folders = FOLDERS[:1] if task.is_rehearsal else FOLDERS  # the first are enough to prove the way
    for number in range(1, _MOST_RUNS + 1):
        junit = Path(task.out) / f"gpu_tests-{number}.xml"
        if not run_tests(folders, outcomes, junit, task.left_s()) or outcomes.num_failed >= _MOST_FAILURES:
            break
    counts = outcomes.counts
    if outcomes.trouble:
        raise StepFailed(f"{outcomes.trouble}; log.txt has its output")
    if outcomes.num_failed or (not counts["passed"] and not task.is_rehearsal):
        raise StepFailed(f"{outcomes.num_failed} tests failed, {counts['passed']} passed; log.txt has their output")


@dataclass(slots=True)
class Outcomes:
    """What came of tests so far.

    Attributes:
        report: Told after every test.
        seen: Tests that have ended, and those that ended pytest.
        counts: How many, by outcome.
        trouble: What went wrong besides tests; empty if nothing did.
    """

    report: Report
    seen: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("passed", "failed", "error", "hung", "skipped"), 0)
    )

    trouble: str = ""

    @property
    def num_failed(self) -> int:
        """Tests that did anything but pass or be skipped."""
        return sum(self.counts[outcome] for outcome in ("failed", "error", "hung"))

    def add(self, test: str, outcome: str) -> None:
        """Counts a test."""
        self.seen.append(test)
        self.counts[outcome] += 1
        self.report.figure("tests", **self.counts)

    def explain(self, test: str, why: str) -> None:
        """Notes why a test failed."""
        self.report.note(f"{test.rpartition('::')[2]}: {why}"[:_MOST_REASON])


def run_tests(folders: Sequence[Path], outcomes: Outcomes, junit: Path, seconds: float) -> bool:
    """Runs the unseen tests of some folders; returns whether pytest died of one, so that others are left."""
    process = subprocess.Popen(
        _command(folders, outcomes, junit),
        cwd=ROOT,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=end_with_parent,
    )
    ending = [
        threading.Timer(seconds, process.send_signal, (signal.SIGINT,)),  # pytest then still writes its XML
        threading.Timer(seconds + _ENDING_S, process.kill),
    ]
    for timer in ending:
        timer.start()
    ends_s = time.monotonic() + seconds
    try:
        running = _follow(process, outcomes)
        code = process.wait()
    finally:
        for timer in ending:
            timer.cancel()
        process.kill()
    if time.monotonic() >= ends_s:
        outcomes.trouble = f"its time was over{f' while {running} ran' if running else ''}"
        return False
    if code in _ENDED_BY_ITSELF or not running:
        if code not in _ENDED_BY_ITSELF:
            outcomes.trouble = f"pytest ended with code {code} between tests"
        return False
    outcomes.add(running, "hung")
    outcomes.explain(running, f"pytest ended with code {code}; log.txt says where it stood")
    return True


def _command(folders: Sequence[Path], outcomes: Outcomes, junit: Path) -> list[str]:
    shown = ("-v", "--no-header", "--color=no", "-rfE")
    alone = ("-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", "-W", "default")
    return [
        *(sys.executable, "-u", "-m", "pytest", "-m", "gpu", *map(str, folders), *shown, *alone),
        *("--maxfail", str(_MOST_FAILURES - outcomes.num_failed), f"--junitxml={junit}"),
        *(f"--deselect={test}" for test in outcomes.seen),
    ]


def _follow(process: "subprocess.Popen[bytes]", outcomes: Outcomes) -> str:
    """Counts tests as they end; returns the one that was running when the output ended, if any."""
    running = ""
    for line, is_whole in _lines(process):
        begun = _BEGUN.match(line)
        if not is_whole:  # what has come of it may be read twice
            running = begun["test"] if begun and not begun["outcome"] else running
        elif match := _REASON.match(line):
            outcomes.explain(match["test"], match["why"])
        elif begun and begun["outcome"]:
            outcomes.add(begun["test"], _WORDS.get(begun["outcome"], begun["outcome"].lower()))
            running = ""
    return running


def _lines(process: "subprocess.Popen[bytes]") -> Iterator[tuple[str, bool]]:
    """Lines as they come, and the beginning of a line whose end has not come yet; all is copied to the log at once.

    A process that says nothing behind the name of a test, for as long as one may take, is aborted from outside: a test
    that hangs in a call of the device may hold Python's lock, where nothing inside of the process can end it.
    """
    assert process.stdout is not None
    rest = b""
    with process.stdout as output:
        while True:
            # Before the first test pytest's "collecting ..." takes its time.
            is_in_test = _BEGUN.match(rest.decode(errors="replace")) is not None
            if not select.select([output], [], [], _TEST_S if is_in_test else None)[0]:
                process.send_signal(signal.SIGABRT)  # Python's fault handler then says where it stood
            data = os.read(output.fileno(), 1 << 16)
            if not data:
                return
            os.write(sys.stdout.fileno(), data)
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                yield line.decode(errors="replace"), True
            if rest:
                yield rest.decode(errors="replace"), False
