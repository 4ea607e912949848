"""Writes down how fast this machine runs the model, as a cost table that simulations read.

command ─▶ RecordingExecutor ─▶ executor          one more executor in front of another: looks at timings alone
                 ╰─ timings ─▶ CostRecorder ─▶ FILE, whole at any time: written beside it, then renamed
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch

from gpu_worker.contract.commands import Advance, Command
from gpu_worker.contract.executor import Executor, GoesOn
from gpu_worker.contract.introduction import Hello, WorkerModel
from gpu_worker.contract.results import AdvanceOutcome, BatchError, IntegrityReport, WorkTiming
from gpu_worker.execution.cost_fit import FittedCosts, StepSample
from gpu_worker.machine.processor import processor_name
from gpu_worker.machine.whole_file import write_whole

_log = logging.getLogger(__name__)

_EVERY_S = 10.0
_TABLE_BLOCK = 16  # tokens of a block in a cost table


class CostRecorder:
    """The cost table of one worker's life, in a file that is whole at any time.

    Args:
        file: Where it is written.
        model: What is served.
        now_s: A clock, which says when it is time to write again.
    """

    def __init__(self, file: Path, model: WorkerModel, now_s: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._model = model
        self._now_s = now_s
        self._sample = StepSample()
        self._next_s = now_s()

    def note(self, timing: WorkTiming) -> None:
        """Takes in what a step ran, and writes if the last time is long ago."""
        self._sample.note(timing)
        if self._now_s() >= self._next_s:
            self.write()

    def write(self) -> bool:
        """Writes the table; where that fails, the worker serves on without, and False is returned."""
        self._next_s = self._now_s() + _EVERY_S
        try:
            table = cost_table(self._model, self._sample.fit(), self._sample.num_steps)
            write_whole(self._file, json.dumps(table, indent=2) + "\n")
        except (OSError, RuntimeError) as error:  # the disk; what cannot be fitted
            _log.warning("costs_not_written file=%s error=%r", self._file, str(error))
            return False
        return True


class RecordingExecutor:
    """Hands commands on, and the timings of what they ran to a recorder."""

    def __init__(self, executor: Executor, recorder: CostRecorder) -> None:
        self._executor = executor
        self._recorder = recorder

    def apply(self, command: Command) -> None:
        """Carries out a command other than Advance; raises CommandRefused, and then nothing has changed."""
        self._executor.apply(command)

    def advance(self, advance: Advance, goes_on: GoesOn) -> AdvanceOutcome:
        """Runs batches on, asking `goes_on` before each unit; raises CommandRefused, and then nothing has run."""
        outcome = self._executor.advance(advance, goes_on)
        if not outcome.batch_errors:  # the time of what failed is in no count
            self._recorder.note(outcome.timing)
        return outcome

    def abandon(self, batch_ids: Sequence[int], message: str) -> list[BatchError]:
        """Forgets the batches of an advance that raised; returns each as failed."""
        return self._executor.abandon(batch_ids, message)

    def check(self, check_id: int) -> IntegrityReport:
        """Says what is held, and what of it contradicts itself."""
        return self._executor.check(check_id)

    def forget_all(self) -> None:
        """Forgets every sequence and batch."""
        self._executor.forget_all()


@contextmanager
def recording_costs(executor: Executor, hello: Hello, file: Path) -> Iterator[Executor]:
    """Yields the executor with a recorder in front of it, which begins with the warm-up and writes at the end too."""
    recorder = CostRecorder(file, hello.model)
    for timing in hello.calibration:
        recorder.note(timing)
    recorder.write()
    try:
        yield RecordingExecutor(executor, recorder)
    finally:
        if recorder.write():
            _log.info("costs_written file=%s", file)


def cost_table(model: WorkerModel, costs: FittedCosts, num_steps: int) -> dict[str, object]:
    """Returns a cost table as `qllm.cost_table` reads it.

    A table's layers are all alike: where some have no experts, the others' time is spread over all of them.
    """
    mixed = [number for number in model.experts_by_layer if number]
    share = len(mixed) / model.num_layers
    blocks = model.block_size / _TABLE_BLOCK
    attention, expert, head = costs.attention_us, [each * share for each in costs.expert_us], costs.head_us
    return {
        "name": f"recorded-{model.name.rpartition('/')[2]}",
        "source": _source(model, costs, num_steps),
        "num_layers": model.num_layers,
        "num_experts": max(mixed, default=1),
        "num_experts_per_token": model.num_experts_per_token if mixed else 1,
        "max_model_len": model.max_model_len,
        "num_blocks": max(1, int(model.num_blocks * blocks)),
        "num_host_blocks": int(model.num_host_blocks * blocks),
        "attention_us": dict(zip(("fixed", "per_token", "per_pair"), attention, strict=True)),
        "expert_us": dict(zip(("fixed", "per_token"), expert, strict=True)),
        "head_us": dict(zip(("fixed", "per_row"), head, strict=True)),
    }


def _source(model: WorkerModel, costs: FittedCosts, num_steps: int) -> str:
    quantization = "" if model.quantization == "none" else f", {model.quantization}"
    return (
        f"Recorded on {datetime.now(UTC):%Y-%m-%d} by qllm-worker --record-costs: {model.name} ({model.family}) in "
        f"{model.dtype}{quantization} on {model.device}: {_machine(model.device)}, torch {torch.__version__}. "
        f"Fitted to {num_steps:,} steps, of which half take within {costs.median_error:.1%} of what this table says."
    )


def _machine(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return f"{processor_name()}, {torch.get_num_threads()} threads"
