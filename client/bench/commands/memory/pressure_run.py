"""The order of events of one run under pressure: answers without it, idle baseline, load, last answers, books.

each prompt alone   LS alone     crowd of BE, Poisson LS          nobody sends       nothing runs
|-- reference ----|-- idle --|-- warm-up --|===== window =====|-- last answers --|-- books are checked
"""

import asyncio
from dataclasses import dataclass, replace

from qllm.client.bench.load.grpc_target import GrpcTarget
from qllm.client.bench.load.load import Load
from qllm.client.bench.load.measurement import Measurement, Window
from qllm.client.bench.load.memory.books import Books
from qllm.client.bench.load.memory.comparing_target import ComparingTarget, FewPrompts
from qllm.client.bench.load.prompts import DEFAULT_VOCAB_SIZE
from qllm.client.bench.load.run import Display, Watch, get_ready, running_load, unless
from qllm.client.bench.load.target import Ask, TargetFacts
from qllm.client.bench.load.workload import BE, LS, Crowd
from qllm.client.bench.options.pressure import PressureOptions

_NUM_LOOKS, _POLL_S = 100, 0.1


@dataclass(frozen=True, slots=True)
class PressureRun:
    """What a service did under pressure.

    Attributes:
        num_be_clients: Best-effort requests at a time.
        measurement: The window.
        num_asked: Requests of the whole load, and how many of them ended with their whole answers.
        num_done: The latter.
        num_work_tokens: Prompt and output tokens of those requests, of both classes.
        comparing: How many answers were compared, and how many were others than without pressure.
        moved: By how much the service's counters of memory grew from the load's start to its end.
        end: The books once nothing ran, or at the last look at them.
    """

    facts: TargetFacts
    num_be_clients: int
    measurement: Measurement
    num_asked: int
    num_done: int
    num_work_tokens: int
    comparing: ComparingTarget
    moved: dict[str, float]
    end: Books
    is_interrupted: bool


async def run_pressure(
    target: GrpcTarget, options: PressureOptions, display: Display, stop: asyncio.Event
) -> PressureRun | None:
    """Runs the load on the service; once `stop` is set, ends early with what was measured so far.

    Returns:
        What came of it; None if it was stopped before the load began.

    Raises:
        TargetFailed: The service cannot be measured.
    """
    display.begin("answers without pressure")
    facts = await target.prepare()
    comparing, crowd = ComparingTarget(target), Crowd(options.be_lengths)
    num_be_clients = options.num_be_clients(facts)
    prompts = options.few_prompts(facts.vocab_size or DEFAULT_VOCAB_SIZE)
    plan = options.plan(crowd, prompts)
    if await unless(stop, _learn(comparing, options, prompts)) is None:
        return None
    ready = await unless(stop, get_ready(comparing, plan, display))
    if ready is None:
        return None
    before = await target.books()
    async with running_load(comparing, plan, prompts, display, stop) as watch:
        crowd.resize(num_be_clients)
        window = await _press(watch, crowd, options)
    end = await _books_at_rest(target)
    records = watch.load.records
    done = [record for record in records if record.ended_s is not None and record.outcome == "done"]
    return PressureRun(
        facts=facts,
        num_be_clients=num_be_clients,
        measurement=Measurement.of(ready.idle, records, window, {}, watch.load.messages),
        num_asked=len(records),
        num_done=len(done),
        num_work_tokens=sum(record.lengths.num_prompt_tokens + record.num_tokens for record in done),
        comparing=comparing,
        moved=end.since(before),
        end=end,
        is_interrupted=stop.is_set(),
    )


async def _learn(comparing: ComparingTarget, options: PressureOptions, prompts: FewPrompts) -> bool:
    """Asks each prompt alone; returns True."""
    for request_class, lengths in ((LS, options.ls_lengths), (BE, options.be_lengths)):
        for index in range(options.prompts):
            prompt = prompts.draw(request_class, index, lengths.num_prompt_tokens)
            await comparing.learn(Ask(request_class, prompt, lengths.max_tokens, index))
    return True


async def _press(watch: Watch, crowd: Crowd, options: PressureOptions) -> Window:
    """Lets the load go on for its time, and then everybody have an answer; returns the window."""
    begin_s = watch.start_s + options.warm_up
    end_s = begin_s + options.seconds
    await watch.until("warm-up load", begin_s)
    is_stopped = await watch.until("pressure", end_s)
    window = Window(begin_s, max(begin_s, watch.load.now_s()) if is_stopped else end_s)
    crowd.resize(0)
    await watch.until("last answers", end_s + options.drain, lambda: _is_silent(watch.load))
    return window


def _is_silent(load: Load) -> bool:
    return not load.num_in_flight.total()


async def _books_at_rest(target: GrpcTarget) -> Books:
    """Returns the books, checked, once nothing runs and nobody holds a block any more; those of the last look else."""
    books = await target.books()
    for _ in range(_NUM_LOOKS):
        if books.is_at_rest:
            break
        await asyncio.sleep(_POLL_S)
        books = await target.books()
    return replace(books, problems=(await target.books(check=True)).problems)
