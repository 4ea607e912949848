"""Runs the steps of a proof in order, each in its box, and keeps what came of them."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.gpu_proof.plan import Boxes, Step
from scripts.gpu_proof.record import INTERRUPTED, PASSED, RUNNING, SKIPPED, Record
from scripts.gpu_proof.step_process import Message, StepProcess

_ENDING_S = 3.0  # kept back for ending the last step and writing what it left
_SHARE_FOR_WORK = 0.9  # of a box: a step that ends by itself is worth more than one that is ended


class Interrupted(Exception):
    """The proof is to end now.

    Attributes:
        number: The signal that says so.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


@dataclass(frozen=True, slots=True)
class Proof:
    """What is run, and how.

    Attributes:
        steps: All steps, in order.
        chosen: Names of those that are run.
        boxes: Their time boxes.
        settings: What every step is told.
        faults: What steps are made to do instead, by name: "crash" or "hang".
        environment: The environment of their processes.
        directory: Their working directory.
        record: Where results go.
        began_s: When its time began, on the monotonic clock.
    """

    steps: Sequence[Step]
    chosen: frozenset[str]
    boxes: Boxes
    settings: Mapping[str, Any]
    faults: Mapping[str, str]
    environment: Mapping[str, str]
    directory: Path
    record: Record
    began_s: float

    def run(self) -> None:
        """Runs all that is chosen, as far as time goes; raises Interrupted on a signal, with all processes ended."""
        deadline_s = self.began_s + self.boxes.minutes * 60 - _ENDING_S
        shared: StepProcess | None = None
        running: StepProcess | None = None
        try:
            for step in self.steps:
                if step.name not in self.chosen:
                    self.record.steps[step.name].status = SKIPPED
                    continue
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    break
                can_share = step.shares_model and shared is not None and shared.is_alive()
                running = shared if can_share and shared is not None else self._new_process()
                self._run_step(step, running, self.boxes.seconds(step, left_s))
                if step.shares_model:
                    shared = running
                else:
                    running.close()
        except Interrupted:
            for one in self.record.steps.values():
                one.status = INTERRUPTED if one.status == RUNNING else one.status
            raise
        finally:
            for process in (running, shared):
                if process is not None:
                    process.kill()
            self.record.write()

    @property
    def has_passed(self) -> bool:
        """Whether every step that is chosen has passed."""
        return all(self.record.steps[name].status == PASSED for name in self.chosen)

    def _new_process(self) -> StepProcess:
        return StepProcess(self.environment, self.directory, self.record.log)

    def _run_step(self, step: Step, process: StepProcess, box_s: float) -> None:
        record = self.record.steps[step.name]
        record.status, record.box_s = RUNNING, round(box_s, 1)
        self.record.log.write(f"\n==== {step.name}, {box_s:.0f} s: {step.what}\n".encode())
        self.record.write()
        request = {
            "step": step.name,
            "seconds": box_s * _SHARE_FOR_WORK,
            "fault": self.faults.get(step.name, ""),
            "settings": self.settings,
        }
        began_s = time.monotonic()

        def take(message: Message) -> None:
            self.record.note_result()
            if "figure" in message:
                record.figures[message["figure"]] = message["values"]
            else:
                record.notes.append(message["note"])
            record.seconds = round(time.monotonic() - began_s, 1)
            self.record.write()

        status, error = process.run(request, box_s, take)
        record.status, record.error = status, error
        record.seconds = round(time.monotonic() - began_s, 1)
        self.record.write()
        print(self.record.block(step.name), flush=True)


def environment_of_steps(root: Path, site: Path) -> dict[str, str]:
    """The environment that a step's process needs: the project's code, and wheels before what is installed."""
    paths = [str(site), str(root), str(root / "protos"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
