"""Times the core's decisions beside a long queue: `schedule` and `update`, with a worker that answers at once.

python -m scripts.decision_time
"""

import random
import time
from typing import Annotated

import typer

from demo.spread import Spread
from scheduler_svc.core.commands import Advance, StartBatch
from scheduler_svc.core.ids import SeqId
from scheduler_svc.core.policies import POLICIES
from scheduler_svc.core.results import SampledToken, StepResult, WorkerModel, WorkTiming
from scheduler_svc.core.scheduler import Scheduler
from scheduler_svc.core.sequence import RequestClass, SamplingParams, Sequence, StopConditions

_MODEL = WorkerModel((8,) * 32, 2, block_size=16, num_blocks=100_000, num_host_blocks=0, max_model_len=4096)
_TIMING = WorkTiming(1, 256, 65_536, 2_000_000, 8, 512, 8_000_000, 1, 8, 500_000)


def make_scheduler(num_queued: int) -> Scheduler:
    """Returns a scheduler with this many best-effort sequences waiting."""
    chance = random.Random(0)
    scheduler = Scheduler(_MODEL, POLICIES["qllm"]())
    scheduler.work.cost_model.observe(_TIMING)
    for i in range(num_queued):
        prompt = tuple(range(chance.randint(10, 600)))
        stop = StopConditions(max_tokens=chance.randint(1, 60))
        scheduler.add(Sequence(SeqId(i), RequestClass.BEST_EFFORT, prompt, SamplingParams(), stop, i * 1e-3))
    return scheduler


def time_decisions(scheduler: Scheduler, num_decisions: int) -> list[float]:
    """Returns the seconds of each round of `update` and `schedule`, in virtual time."""
    starts: dict[int, StartBatch] = {}
    times_s: list[float] = []
    waiting: list[Advance] = []
    now_s = 100.0
    while len(times_s) < num_decisions:
        began_s = time.perf_counter()
        if waiting:
            scheduler.update(_answer(waiting.pop(0), starts), now_s)
        commands = scheduler.schedule(now_s)
        times_s.append(time.perf_counter() - began_s)
        now_s += 0.01
        starts |= {command.batch_id: command for command in commands if isinstance(command, StartBatch)}
        waiting += [command for command in commands if isinstance(command, Advance)]
    return times_s


def _answer(advance: Advance, starts: dict[int, StartBatch]) -> StepResult:
    is_end = advance.until.layer == _MODEL.num_layers
    items = [item for batch_id in advance.batch_ids for item in starts[batch_id].items if is_end and item.samples]
    tokens = tuple(SampledToken(item.seq_id, 5, -1.0) for item in items)
    return StepResult(advance.command_id, advance.until, 10_000_000, 0, tokens, (), _TIMING)


def decision_time(
    queued: Annotated[int, typer.Option(min=1, help="Sequences that wait.")] = 10_000,
    decisions: Annotated[int, typer.Option(min=10, help="Rounds to time.")] = 5_000,
) -> None:
    """Prints mean, median and 99th percentile, beside a queue of ten for comparison."""
    for num_queued in (10, queued):
        spread = Spread.of(time_decisions(make_scheduler(num_queued), decisions if num_queued > 10 else 50))
        micros = (spread.mean_ms * 1e3, spread.p50_ms * 1e3, spread.p99_ms * 1e3)
        print(f"{num_queued:6} queued: mean {micros[0]:.0f} us, p50 {micros[1]:.0f} us, p99 {micros[2]:.0f} us")


if __name__ == "__main__":
    typer.run(decision_time)
