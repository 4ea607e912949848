"""The tests marked gpu, whose outcomes are kept as each ends."""

import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

from scripts.gpu_proof.child import StepFailed, Task
from scripts.gpu_proof.packages import ROOT

_MOST_FAILURES = 10
_TEST_S = 60
_OUTCOME = re.compile(r"^(?P<test>tests/\S+) (?P<outcome>PASSED|FAILED|ERROR|SKIPPED)")
_REASON = re.compile(r"^(?:FAILED|ERROR) (?P<test>\S+) - (?P<why>.*)")


def run(task: Task) -> None:
    """Runs them, ten failures at most; JUnit's XML goes to gpu_tests.xml."""
    command = [
        *(sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-v", "--no-header", "--color=no", "-rfE", "-p"),
        *("no:cacheprovider", "-o", "addopts=--import-mode=importlib", "-W", "default", "--timeout", str(_TEST_S)),
        *("--maxfail", str(_MOST_FAILURES), f"--junitxml={Path(task.out) / 'gpu_tests.xml'}"),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    # Asked to end in time, pytest still writes its XML.
    stop = threading.Timer(task.left_s(), process.send_signal, (signal.SIGINT,))
    stop.start()
    counts = dict.fromkeys(("passed", "failed", "error", "skipped"), 0)
    try:
        for line in process.stdout or ():
            sys.stdout.write(line)
            if match := _OUTCOME.match(line):
                counts[match["outcome"].lower()] += 1
                task.report.figure("tests", **counts)
            elif match := _REASON.match(line):
                task.report.note(f"{match['test'].rpartition('::')[2]}: {match['why']}"[:300])
        code = process.wait()
    finally:
        stop.cancel()
        process.kill()
    if code:
        raise StepFailed(f"pytest ended with code {code}; log.txt has its output")
