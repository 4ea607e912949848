"""Times the core's decisions beside a long queue: `schedule` and `update`, with a worker that answers at once.

    python -m scripts.engine.decision_time
    python -m scripts.engine.decision_time --cached-blocks 100000 --running 32

With --cached-blocks two schedulers decide in turns: one whose cache is empty at first, and one that remembers so many
blocks of requests that have ended. Then ratios are told, with their standard errors over --rounds.
"""

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from statistics import fmean
from typing import Annotated, TypeVar

import typer
from qllm.client.bench.report.turns_tables import ratios_grid, turns_grid
from qllm.client.bench.results.spread import percentile
from qllm.client.bench.results.turns import Figure, Turns
from rich.console import Console

from scheduler_svc.core.policies import POLICIES, Limits
from scheduler_svc.core.scheduler import Scheduler
from scheduler_svc.core.state.commands import Advance, StartBatch
from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.results import SampledToken, StepResult, WorkerModel, WorkTiming
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, Sequence, StopConditions

T = TypeVar("T")
_MODEL = WorkerModel((8,) * 32, 2, block_size=16, num_blocks=100_000, num_host_blocks=0, max_model_len=4096)
_TIMING = WorkTiming(1, 256, 65_536, 2_000_000, 8, 512, 8_000_000, 1, 8, 500_000)
_LONGEST_PROMPT = 4000  # of the requests that fill a cache
_FIGURES = (
    Figure("schedule_us", "schedule, us", 0, is_compared=True),
    Figure("update_us", "update, us", 0, is_compared=True),
)
_seq_ids = count()


def make_scheduler(num_queued: int, num_running: int, *, num_more_blocks: int = 0) -> Scheduler:
    """Returns a scheduler with this many best-effort sequences waiting, in iterations of up to `num_running`."""
    limits = Limits(max_num_seqs=num_running, be_chunk_tokens=2 * num_running)
    # A block of one byte, so that bytes are blocks.
    model = replace(_MODEL, num_blocks=_MODEL.num_blocks + num_more_blocks, block_bytes=1)
    scheduler = Scheduler(model, POLICIES["qllm"](), limits, calibration=(_TIMING,))
    add_queue(scheduler, num_queued)
    return scheduler


def add_queue(scheduler: Scheduler, num_queued: int) -> None:
    """Adds so many sequences that begin differently."""
    chance = random.Random(0)
    for number in range(num_queued):
        _add(scheduler, chance.randint(10, 600), chance.randint(1, 400), number * 1e-3)


def _add(scheduler: Scheduler, num_prompt_tokens: int, max_tokens: int, arrival_s: float) -> None:
    seq_id = SeqId(next(_seq_ids))
    prompt = (seq_id, *range(1, num_prompt_tokens))  # nobody else's first token
    stop = StopConditions(max_tokens=max_tokens)
    scheduler.add(Sequence(seq_id, RequestClass.BEST_EFFORT, prompt, SamplingParams(), stop, arrival_s))


def fill_cache(scheduler: Scheduler, worker: "InstantWorker", num_blocks: int) -> None:
    """Runs requests to their ends until the scheduler remembers at least so many blocks of them."""
    while (num_cached := scheduler.memory_load().prefix_bytes) < num_blocks:
        _add(scheduler, min(_LONGEST_PROMPT, (num_blocks - num_cached) * _MODEL.block_size + 1), 1, 0.0)
        worker.run_out()


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
            schedule_s.append(self._decide())
        return schedule_s, update_s

    def run_out(self) -> None:
        """Goes on until nothing is left to run."""
        self._decide()
        while self._waiting:
            self._scheduler.update(self._answer(self._waiting.popleft()), self._now_s)
            self._decide()

    def _decide(self) -> float:
        """Asks for a decision and takes its commands in; returns the seconds that it took."""
        took_s, commands = _seconds(partial(self._scheduler.schedule, self._now_s))
        self._now_s += 0.01
        self._starts |= {command.batch_id: command for command in commands if isinstance(command, StartBatch)}
        self._waiting += [command for command in commands if isinstance(command, Advance)]
        return took_s

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


def beside_a_full_cache(num_queued: int, num_running: int, num_cached: int, num_decisions: int, rounds: int) -> Turns:
    """Times decisions in turns: with a cache that was empty before, and with one that remembers so many blocks."""
    labels = ("empty cache", f"{num_cached:,} blocks cached")
    schedulers = {label: make_scheduler(0, num_running, num_more_blocks=num_cached) for label in labels}
    workers = {label: InstantWorker(scheduler) for label, scheduler in schedulers.items()}
    fill_cache(schedulers[labels[1]], workers[labels[1]], num_cached)
    for label in labels:
        add_queue(schedulers[label], num_queued)
        workers[label].time_decisions(num_decisions // rounds)  # the first ones fill the batch
    turns = Turns()
    for number in range(rounds):
        for label in labels if number % 2 == 0 else reversed(labels):
            schedule_s, update_s = workers[label].time_decisions(num_decisions // rounds)
            turns.add(label, {"schedule_us": fmean(schedule_s) * 1e6, "update_us": fmean(update_s) * 1e6})
    return turns


def decision_time(
    queued: Annotated[int, typer.Option(min=1, help="Sequences that wait.")] = 10_000,
    running: Annotated[int, typer.Option(min=1, help="Most sequences of an iteration.")] = 256,
    decisions: Annotated[int, typer.Option(min=10, help="Decisions to time.")] = 5_000,
    cached_blocks: Annotated[
        int, typer.Option(min=0, help="Blocks that a cache remembers, beside which an empty one is timed; 0: neither.")
    ] = 0,
    rounds: Annotated[int, typer.Option(min=2, help="Turns of each, with --cached-blocks.")] = 20,
) -> None:
    """Prints mean, median and 99th percentile of a decision (`schedule`) and of taking a result in (`update`)."""
    if cached_blocks:
        turns = beside_a_full_cache(queued, running, cached_blocks, decisions, rounds)
        print(f"{queued} queued, iterations of {running}, {decisions} decisions")
        for grid in (turns_grid("", turns, _FIGURES), ratios_grid("", turns, _FIGURES, turns.labels[0])):
            if grid is not None:
                Console().print(grid.to_table())
        return
    worker = InstantWorker(make_scheduler(queued, running))
    worker.time_decisions(decisions // 10)  # the first ones fill the batch
    schedule_s, update_s = worker.time_decisions(decisions)
    print(f"{queued} queued, iterations of {running}")
    print(_report("schedule", schedule_s))
    print(_report("update", update_s))


if __name__ == "__main__":
    typer.run(decision_time)
