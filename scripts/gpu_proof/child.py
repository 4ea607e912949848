"""Runs steps, one after another, as stdin's lines say; figures and ends go back over the pipe the environment names."""

import contextlib
import importlib
import json
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from typing import Any

from qllm.logs import LogLevel, set_up_logging

from scripts.gpu_proof.record import FAILED, PASSED
from scripts.gpu_proof.step_process import REPORT_FD, end_with_parent


class StepFailed(Exception):
    """A step has shown that something does not hold; the message says what."""


class Report:
    """Says what a step finds, as it finds it.

    Args:
        descriptor: Where lines go.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def ready(self) -> None:
        """Says that steps are waited for."""
        self._write({"ready": True})

    def figure(self, name: str, /, **values: Any) -> None:
        """Keeps some values under a name; floats are rounded to what a reader can use."""
        rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()}
        self._write({"figure": name, "values": rounded})

    def note(self, text: str) -> None:
        """Keeps a sentence."""
        self._write({"note": text})

    def end(self, error: str) -> None:
        """Ends the step."""
        self._write({"end": FAILED if error else PASSED, "error": error})

    def _write(self, message: dict[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        while line:  # a pipe may take less than a long line
            line = line[os.write(self._descriptor, line) :]


@dataclass(frozen=True, slots=True)
class Task:
    """What a step is to do.

    Attributes:
        ends_s: Time on the monotonic clock by which it should be done.
        out: Folder for files of its own.
        device: "auto", "cuda" or "cpu".
        geometry: Shape of the large model, or "auto".
        is_rehearsal: Whether few repetitions do.
        report: Where it says what it finds.
    """

    ends_s: float
    out: str
    device: str
    geometry: str
    is_rehearsal: bool
    report: Report

    def left_s(self) -> float:
        """Seconds until it should be done, never below 0."""
        return max(0.0, self.ends_s - time.monotonic())


def main() -> None:
    """Runs steps until stdin ends."""
    end_with_parent()
    report = Report(int(os.environ[REPORT_FD]))
    report.ready()
    set_up_logging(LogLevel.INFO)
    with contextlib.suppress(Exception):  # where a package is missing, the step that needs it says so
        from gpu_worker.machine.process import wait_briefly

        wait_briefly()  # before a step loads OpenMP with torch
    for line in sys.stdin:
        request = json.loads(line)
        settings = request["settings"]
        task = Task(
            ends_s=time.monotonic() + request["seconds"],
            out=settings["out"],
            device=settings["device"],
            geometry=settings["geometry"],
            is_rehearsal=settings["rehearse"],
            report=report,
        )
        error = _run(request["step"], request["fault"], task)
        if error and (lost := _lost_device()):
            report.end(f"{error}\nthe device is lost for this process: {lost}")
            os._exit(1)  # every later call of the device would fail; the next step gets a fresh process
        report.end(error)


def _run(name: str, fault: str, task: Task) -> str:
    """Runs a step; returns why it failed, or nothing."""
    try:
        if fault:
            _misbehave(fault)
        importlib.import_module(f"scripts.gpu_proof.steps.{name}").run(task)
    except StepFailed as failure:
        return str(failure)
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return ""


def _lost_device() -> str:
    """What the device answers if it answers nothing but errors any more; empty if all is well, or none was used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return ""
    try:
        torch.cuda.synchronize()
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def _misbehave(fault: str) -> None:
    """Does what a broken driver does to a process."""
    if fault == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    while True:
        time.sleep(60)


if __name__ == "__main__":
    # Steps import this module by its name: without this the classes here would exist twice, once as __main__'s.
    from scripts.gpu_proof import child

    child.main()
