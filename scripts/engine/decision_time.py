"""Times the core's decisions beside a long queue: `schedule` and `update`, with a worker that answers at once.

python -m scripts.engine.decision_time
"""

import random
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import Annotated, TypeVar

import typer

from client.bench.results.spread import percentile
from scheduler_svc.core.policies import POLICIES, Limits
from scheduler_svc.core.scheduler import Scheduler
from scheduler_svc.core.state.commands import Advance, StartBatch
from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.results import SampledToken, StepResult, WorkerModel, WorkTiming
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, Sequence, StopConditions

T = TypeVar("T")
_MODEL = WorkerModel((8,) * 32, 2, block_size=16, num_blocks=100_000, num_host_blocks=0, max_model_len=4096)
_TIMING = WorkTiming(1, 256, 65_536, 2_000_000, 8, 512, 8_000_000, 1, 8, 500_000)


def make_scheduler(num_queued: int, num_running: int) -> Scheduler:
    """Returns a scheduler with this many best-effort sequences waiting, in iterations of up to `num_running`."""
    chance = random.Random(0)
    limits = Limits(max_num_seqs=num_running, be_chunk_tokens=2 * num_running)
    scheduler = Scheduler(_MODEL, POLICIES["qllm"](), limits, calibration=(_TIMING,))
    for i in range(num_queued):
        prompt = tuple(range(chance.randint(10, 600)))
        stop = StopConditions(max_tokens=chance.randint(1, 400))
        scheduler.add(Sequence(SeqId(i), RequestClass.BEST_EFFORT, prompt, SamplingParams(), stop, i * 1e-3))
    return scheduler


class InstantWorker:
    """Answers every step with what it was predicted to do, and times the scheduler's own calls meanwhile."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._starts: dict[int, StartBatch] = {}
        self._waiting: deque[Advance] = deque()
        self._now_s = 100.0

    def time_decisions(self, num_decisions: int) -> tuple[list[float], list[float]]:
        """Returns the seconds that each `schedule` and each `update` took."""
        schedule_s: list[float] = []
        update_s: list[float] = []
        while len(schedule_s) < num_decisions:
            if self._waiting:
                result = self._answer(self._waiting.popleft())
                update_s.append(_seconds(partial(self._scheduler.update, result, self._now_s))[0])
            took_s, commands = _seconds(partial(self._scheduler.schedule, self._now_s))
            schedule_s.append(took_s)
            self._now_s += 0.01
            self._starts |= {command.batch_id: command for command in commands if isinstance(command, StartBatch)}
            self._waiting += [command for command in commands if isinstance(command, Advance)]
        return schedule_s, update_s

    def _answer(self, advance: Advance) -> StepResult:
        is_end = advance.until.layer == _MODEL.num_layers
        starts = [self._starts.pop(b) if is_end else self._starts[b] for b in advance.batch_ids]
        items = [item for start in starts for item in start.items if is_end and item.samples]
        tokens = tuple(SampledToken(item.seq_id, 5, -1.0) for item in items)
        return StepResult(advance.command_id, advance.until, 10_000_000, 0, tokens, (), _TIMING)


def _seconds(call: Callable[[], T]) -> tuple[float, T]:
    began_s = time.perf_counter()
    result = call()
    return time.perf_counter() - began_s, result


def _report(name: str, times_s: list[float]) -> str:
    ordered_us = sorted(time_s * 1e6 for time_s in times_s)
    p50_us, p99_us = percentile(ordered_us, 50), percentile(ordered_us, 99)
    return f"{name:8} mean {fmean(ordered_us):.0f} us, p50 {p50_us:.0f} us, p99 {p99_us:.0f} us"


def decision_time(
    queued: Annotated[int, typer.Option(min=1, help="Sequences that wait.")] = 10_000,
    running: Annotated[int, typer.Option(min=1, help="Most sequences of an iteration.")] = 256,
    decisions: Annotated[int, typer.Option(min=10, help="Rounds to time.")] = 5_000,
) -> None:
    """Prints mean, median and 99th percentile of a decision (`schedule`) and of taking a result in (`update`)."""
    worker = InstantWorker(make_scheduler(queued, running))
    worker.time_decisions(decisions // 10)  # the first ones fill the batch
    schedule_s, update_s = worker.time_decisions(decisions)
    print(f"{queued} queued, iterations of {running}")
    print(_report("schedule", schedule_s))
    print(_report("update", update_s))


if __name__ == "__main__":
    typer.run(decision_time)
