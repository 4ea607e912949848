"""The order of events of one benchmark run: warm up, idle baseline, load, drain. Owns the run's tasks."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from qllm.client.bench.errors import RequestFailed, TargetFailed
from qllm.client.bench.load.load import Load
from qllm.client.bench.load.measurement import Measurement, Window
from qllm.client.bench.load.prompts import DEFAULT_VOCAB_SIZE, PromptSource
from qllm.client.bench.load.record import RequestRecord
from qllm.client.bench.load.target import Target, TargetFacts
from qllm.client.bench.load.workload import LS, Lengths, Workload, sample_lengths
from qllm.client.messages import RequestClass

T = TypeVar("T")

_NUM_WARM_UPS = 3
_IDLE_PAUSE_S = 0.1
_FIRST_IDLE_INDEX = 10**9  # numbered apart from the load's prompts, which the server has then never seen
_POLL_S = 0.1


class Display(Protocol):
    """Shows how far a run is; does nothing about it."""

    def begin(self, phase: str, seconds: float | None = None) -> None:
        """A phase begins, and will take so long, if that is known."""

    def update(self, elapsed_s: float, load: Load) -> None:
        """So much of the phase has passed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run does.

    Attributes:
        workload: Who asks, and when.
        prompts: What is asked.
        vocab_size: What token ids are drawn from; None asks the server.
        num_idle: Latency-sensitive requests of the idle baseline; 0 leaves it out.
        warm_up_s: Seconds of load before the window.
        seconds: Length of the window.
        drain_s: Longest time for the window's requests to end after it, the load going on.
        max_in_flight: See `Load`.
    """

    workload: Workload
    prompts: PromptSource
    vocab_size: int | None
    num_idle: int
    warm_up_s: float
    seconds: float
    drain_s: float
    max_in_flight: int


@dataclass(frozen=True, slots=True)
class Run:
    """What a run came to, and on what."""

    facts: TargetFacts
    measurement: Measurement
    is_interrupted: bool


async def run_plan(target: Target, plan: Plan, display: Display, stop: asyncio.Event) -> Run | None:
    """Runs the plan on the server; once `stop` is set, ends early with what was measured so far.

    Returns:
        The run; None if it was stopped before the window began.

    Raises:
        TargetFailed: The server cannot be measured.
    """
    ready = await unless(stop, get_ready(target, plan, display))
    if ready is None:
        return None
    async with running_load(target, plan, ready.prompts, display, stop) as watch:
        measurement = await _measure(target, plan, watch, ready.idle)
    return None if measurement is None else Run(ready.facts, measurement(), stop.is_set())


@dataclass(frozen=True, slots=True)
class Ready:
    """A server that is warm.

    Attributes:
        prompts: What is asked, as it suits the server.
        idle: Requests of the idle baseline.
    """

    facts: TargetFacts
    prompts: PromptSource
    idle: Sequence[RequestRecord]


async def get_ready(target: Target, plan: Plan, display: Display) -> Ready:
    """Warms the server up and measures it idle.

    Raises:
        TargetFailed: The server cannot be measured.
    """
    display.begin("warming up")
    facts = await target.prepare()
    try:
        prompts = await plan.prompts.fit(target, plan.vocab_size or facts.vocab_size or DEFAULT_VOCAB_SIZE)
    except RequestFailed as failure:
        raise TargetFailed(f"the server refuses a prompt: {failure.kind}: {failure}", failure.kind) from failure
    load = Load(target, prompts, max_in_flight=plan.max_in_flight)
    for request_class in plan.workload:
        await _ask_each(load, request_class, _typical(plan, request_class, _NUM_WARM_UPS), -_NUM_WARM_UPS, 0.0)
    num_warm_ups = len(load.records)
    if LS in plan.workload and plan.num_idle:
        display.begin("idle baseline")
        await _ask_each(load, LS, _typical(plan, LS, plan.num_idle), _FIRST_IDLE_INDEX, _IDLE_PAUSE_S)
    return Ready(facts, prompts, load.records[num_warm_ups:])


@asynccontextmanager
async def running_load(
    target: Target, plan: Plan, prompts: PromptSource, display: Display, stop: asyncio.Event
) -> AsyncIterator["Watch"]:
    """Runs the plan's workload until the block is left; what is in flight then is given up.

    Raises:
        TargetFailed: The target said of a request that the load is to end.
    """
    load = Load(target, prompts, max_in_flight=plan.max_in_flight)
    start_s = load.now_s()
    loading = asyncio.create_task(load.run(plan.workload, start_s))
    try:
        yield Watch(load, loading, start_s, display, stop)
    finally:
        loading.cancel()
        with suppress(asyncio.CancelledError):
            await loading


def _typical(plan: Plan, request_class: RequestClass, count: int) -> list[Lengths]:
    return sample_lengths(plan.workload[request_class], count, plan.warm_up_s + plan.seconds)


async def _ask_each(
    load: Load, request_class: RequestClass, lengths: Sequence[Lengths], first_index: int, pause_s: float
) -> None:
    for index, each in enumerate(lengths, start=first_index):
        record = await load.ask(request_class, index, each, load.now_s())
        if record.is_failed:
            kind = record.outcome
            raise TargetFailed(f"the idle server fails a request: {kind}: {load.messages[kind]}", kind)
        await asyncio.sleep(pause_s)


async def _measure(
    target: Target, plan: Plan, watch: "Watch", idle: Sequence[RequestRecord]
) -> Callable[[], Measurement] | None:
    """Waits for the window and the drain to pass.

    The window's ends count from the load's start, so that it holds the same requests whatever the server does.

    Returns:
        What makes the measurement, once the load has been stopped; None if it was stopped before the window.
    """
    begin_s = watch.start_s + plan.warm_up_s
    end_s = begin_s + plan.seconds
    if await watch.until("warm-up load", begin_s):
        return None
    load, before = watch.load, await target.counters()
    is_stopped = await watch.until("measuring", end_s)
    window = Window(begin_s, load.now_s() if is_stopped else end_s)
    after = await target.counters()
    if not is_stopped:
        last_s = end_s + plan.drain_s
        await watch.until("waiting for the last answers", last_s, lambda: _all_ended(load.records, window))
    counters = {name: value - before[name] for name, value in after.items() if name in before}
    return lambda: Measurement.of(idle, load.records, window, counters, load.messages)


def _all_ended(records: Sequence[RequestRecord], window: Window) -> bool:
    return all(record.ended_s is not None for record in records if window.holds(record.intended_s))


@dataclass(frozen=True, slots=True)
class Watch:
    """A running load, watched in phases.

    Attributes:
        start_s: When it began, on its own clock.
    """

    load: Load
    loading: "asyncio.Task[None]"
    start_s: float
    display: Display
    stop: asyncio.Event

    async def until(self, phase: str, end_s: float, is_over: Callable[[], bool] = lambda: False) -> bool:
        """Returns at that time on the load's clock, or once the phase is over; True if it was stopped instead."""
        seconds = max(0.0, end_s - self.load.now_s())
        self.display.begin(phase, seconds)
        while (left_s := end_s - self.load.now_s()) > 0 and not is_over():
            if self.loading.done():
                self.loading.result()
            self.display.update(seconds - left_s, self.load)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), min(_POLL_S, left_s))
                return True
        return self.stop.is_set()


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Returns what the work returns; cancels it and returns None if `stop` is set first."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)
