"""Random kills of the worker over a load with streams open: what became of every request, and what each kill cost."""

import asyncio
import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.faults import plans
from tests.faults.checker.times import longest_silence, time_to_detect, time_to_serve_again
from tests.faults.checker.verdict import Flaw, Outcome, Span, judge
from tests.faults.harness.clients import Clients
from tests.faults.harness.load import closed_loop
from tests.faults.harness.service import Service, Settings, until
from tests.faults.harness.watch import Watch
from tests.faults.plans import References
from tests.faults.records import Record
from tests.faults.runs.cell_result import in_words
from tests.faults.runs.matrix import seconds

PLANS = plans.mixed(5, 24, prompts=range(10, 200), outputs=range(20, 80), ls_share=0.4)
_NUM_EXAMPLES = 5
_WORK_AGAIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill.

    Attributes:
        num_open: Streams that were open.
        detect_s: From the kill to the first sign of it.
        serve_again_s: From the kill to the first token of a request that was sent after it.
        silences_s: How long each open stream that went on stood still.
    """

    at_s: float
    num_open: int
    detect_s: float | None
    serve_again_s: float | None
    silences_s: tuple[float, ...]


@dataclass(slots=True)
class KillsResult:
    """What became of a run of kills."""

    kills: list[Kill] = field(default_factory=list)
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    flaws: Counter[Flaw] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was wrong with any request, and there was a kill at all."""
        return bool(self.kills) and not self.flaws


async def run_kills(
    settings: Settings,
    *,
    duration_s: float,
    every_s: float,
    num_clients: int = 8,
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> KillsResult:
    """Kills the worker at random times, some `every_s` apart, each time while it serves, and judges every request."""
    references, rng = References(), random.Random(seed)
    kills_s: list[float] = []
    async with Service(settings) as service:
        await references.learn(service.address, PLANS)
        async with Clients(service.address) as clients, Watch(service) as watch:
            async with closed_loop(clients, PLANS, num_clients, seed):
                end_s = time.monotonic() + duration_s
                while time.monotonic() < end_s:
                    await asyncio.sleep(every_s * rng.uniform(0.5, 1.5))
                    kills_s.append(await _kill(service, clients))
                    num_open, num_asked = len(clients.open_records), len(clients.records)
                    tell(f"kill {len(kills_s)}: {num_open} streams open, {num_asked} requests so far")
                await _served_once_more(service, clients, kills_s)
            return _judged(clients.records, kills_s, references, watch)


async def _kill(service: Service, clients: Clients) -> float:
    """Kills the worker as soon as a stream that it serves has begun; returns when."""
    await service.wait_until_serving()
    await until(lambda: any(record.messages for record in clients.open_records), _WORK_AGAIN_S)
    await until(lambda: service.worker_pid() is not None, _WORK_AGAIN_S)
    at_s, pid = time.monotonic(), service.worker_pid()
    if pid is None:
        raise ProcessLookupError("there is no worker, though the service says that it serves")
    os.kill(pid, signal.SIGKILL)
    return at_s


async def _served_once_more(service: Service, clients: Clients, kills_s: Sequence[float]) -> None:
    """Waits until a request is answered that was sent after the last kill, so that every kill has its cost."""
    await service.wait_until_serving()
    deadline_s = time.monotonic() + _WORK_AGAIN_S
    while kills_s and time_to_serve_again(clients.records, kills_s[-1]) is None:
        await asyncio.sleep(0.1)
        if time.monotonic() > deadline_s:
            return


def _judged(records: Sequence[Record], kills_s: Sequence[float], references: References, watch: Watch) -> KillsResult:
    result, spans = KillsResult(), []
    for at_s in kills_s:
        serve_again_s = time_to_serve_again(records, at_s)
        open_then = [record for record in records if record.sent_s < at_s and (record.ended_s or at_s + 1) > at_s]
        silences = [longest_silence(record, at_s) for record in open_then if record.status == "OK"]
        went_on = tuple(silence for silence in silences if silence is not None)
        detect_s = time_to_detect(watch.signs, at_s)
        result.kills.append(Kill(at_s, len(open_then), detect_s, serve_again_s, went_on))
        until_s = float("inf") if serve_again_s is None else at_s + serve_again_s
        spans.append(Span(at_s, until_s, ends_streams=False))
    for record in records:
        verdict = judge(record, references.of(record.plan), spans)
        result.outcomes[verdict.outcome] += 1
        result.flaws.update(verdict.flaws)
        if verdict.flaws and len(result.examples) < _NUM_EXAMPLES:
            next_s = min((at_s for at_s in kills_s if record.sent_s < at_s), default=record.sent_s)
            result.examples.append(in_words(record, verdict, next_s))
    return result


def report(result: KillsResult) -> list[str]:
    """Returns the result in lines."""
    kills = result.kills
    open_streams = sum(kill.num_open for kill in kills)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(result.outcomes.items()))
    flaws = ", ".join(f"{count} {flaw}" for flaw, count in sorted(result.flaws.items())) or "none"
    return [
        f"{len(kills)} kills, {open_streams} streams open at them",
        f"requests: {counts}; flaws: {flaws}",
        f"time to detect: {_spread([kill.detect_s for kill in kills])}",
        f"time to serve again: {_spread([kill.serve_again_s for kill in kills])}",
        f"streams that went on stood still for: {_spread([s for kill in kills for s in kill.silences_s])}",
        *result.examples,
    ]


def _spread(times_s: Sequence[float | None]) -> str:
    there = sorted(time_s for time_s in times_s if time_s is not None)
    if not there:
        return "-"
    middle = statistics.median(there)
    never = f", {len(times_s) - len(there)} never" if len(there) < len(times_s) else ""
    return f"median {seconds(middle)}, most {seconds(there[-1])} (n={len(there)}{never})"
