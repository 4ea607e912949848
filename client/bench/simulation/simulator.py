"""Runs simulations as processes of their own, several at a time, and reads what they found.

The simulator belongs to the scheduler's package (`python -m scheduler_svc.simulation`); it is started by its
name and told its job as JSON.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from qllm.client.bench.errors import BenchError
from qllm.client.bench.load.workload import BE, LS
from qllm.client.bench.results.spread import Spread
from qllm.client.bench.results.summary import Objective
from qllm.client.bench.set_ups import SetUp
from qllm.client.bench.simulation.traffic import MixedLoad, Traffic
from qllm.client.messages import RequestClass

_MODULE = "scheduler_svc.simulation"
_CLASSES = {LS: "ls", BE: "be"}


class SimulationFailed(BenchError):
    """A simulation did not end well; the message is the simulator's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassResult:
    """What the requests of one class met, in virtual time; None where there were none.

    Attributes:
        tpot: Mean times from one token to the next, of each request with more than one.
        attainment: Share of them whose first token came within the objective.
        tpot_attainment: Share of them whose further tokens did; None if there is no such objective.
        both_attainment: Share of them that kept both objectives; None likewise.
        tokens_per_s: Their output tokens in the window, by its length.
        ttft_ms: All times to first token, sorted.
    """

    count: int
    ttft: Spread | None
    tpot: Spread | None
    turnaround: Spread | None
    queue: Spread | None
    attainment: float | None
    tpot_attainment: float | None = None
    both_attainment: float | None = None
    tokens_per_s: float = 0.0
    num_preemptions: int = 0
    ttft_ms: tuple[float, ...] = field(repr=False, default=())


@dataclass(frozen=True, slots=True)
class SimulatedResult:
    """One simulation's figures.

    Attributes:
        virtual_s: Virtual time from the start until the last request had ended.
        cpu_s: Processor time that the simulation took.
        tokens_per_s: Output tokens of all requests in the window, by its length. The window is that of clients that
            never pause, else the whole run.
        counters: The core's counters.
    """

    virtual_s: float
    cpu_s: float
    tokens_per_s: float
    num_events: int
    classes: Mapping[RequestClass, ClassResult]
    counters: Mapping[str, float]

    def to_json(self) -> dict[str, object]:
        """Returns all figures as plain JSON."""
        figures = asdict(self)
        figures["classes"] = {_CLASSES[request_class]: asdict(result) for request_class, result in self.classes.items()}
        return figures

    @property
    def ls(self) -> ClassResult:
        """The latency-sensitive requests."""
        return self.classes[LS]

    @property
    def be(self) -> ClassResult:
        """The best-effort requests."""
        return self.classes[BE]


@dataclass(frozen=True, slots=True)
class Planned:
    """One simulation to run, and what its latency-sensitive requests should keep."""

    job: Mapping[str, object]
    objective: Objective


def job_of(set_up: SetUp, cost_table: object, asked: Mapping[str, object]) -> dict[str, object]:
    """Returns the simulator's job: what is asked, by `asked_of`, under this set-up."""
    return {
        "cost_table": cost_table,
        "policy": set_up.policy,
        "preempt_at": set_up.preempt_at,
        "settings": dict(set_up.settings),
        **asked,
    }


def asked_of(traffic: Traffic) -> dict[str, object]:
    """Returns what of a job is the same for all set-ups: the requests, and the clients that never pause."""
    loop = {"closed_loop": traffic.closed_loop()} if isinstance(traffic, MixedLoad) else {}
    return {"requests": traffic.rows(), **loop}


async def simulate_all(
    planned: Sequence[Planned], *, num_processes: int, on_done: Callable[[], None]
) -> list[SimulatedResult]:
    """Runs simulations and returns their results in the same order; as `run_jobs`."""
    reports = await run_jobs([one.job for one in planned], num_processes=num_processes, on_done=on_done)
    return [_read(report, one.objective) for report, one in zip(reports, planned, strict=True)]


async def run_jobs(
    jobs: Sequence[Mapping[str, object]], *, num_processes: int, on_done: Callable[[], None]
) -> list[Mapping[str, Any]]:
    """Runs simulations and returns what each reports, in the same order; the first failure ends them all.

    Raises:
        SimulationFailed: The simulator refused a job, or is not installed.
    """
    places = asyncio.Semaphore(num_processes)

    async def run(job: Mapping[str, object]) -> Mapping[str, Any]:
        async with places:
            report = await _run_process(json.dumps(job).encode())
        on_done()
        return report

    tasks = [asyncio.create_task(run(job)) for job in jobs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run_process(job: bytes) -> Mapping[str, Any]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", _MODULE, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
    )
    try:
        output, complaint = await process.communicate(job)
    finally:
        if process.returncode is None:
            # process.kill() would reap one that has ended, and asyncio complain on stderr.
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode != 0:
        lines = complaint.decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"]
        raise SimulationFailed(lines[-1])
    result: Mapping[str, Any] = json.loads(output)
    return result


def _read(content: Mapping[str, Any], objective: Objective) -> SimulatedResult:
    outcomes: Mapping[str, list[Any]] = content["outcomes"]
    seconds, counts = content["window"]["seconds"], content["window"]["num_output_tokens"]
    rates = {name: round(count / seconds, 3) if seconds else 0.0 for name, count in counts.items()}
    return SimulatedResult(
        virtual_s=content["virtual_s"],
        cpu_s=content["cpu_s"],
        tokens_per_s=round(sum(rates.values()), 3),
        num_events=content["num_events"],
        classes={one: _read_class(outcomes, name, rates[name], objective) for one, name in _CLASSES.items()},
        counters=content["counters"],
    )


def _read_class(outcomes: Mapping[str, list[Any]], name: str, tokens_per_s: float, objective: Objective) -> ClassResult:
    mine = [number for number, other in enumerate(outcomes["request_class"]) if other == name]
    ttft, tpot, turnaround, queue = (_times_ms(outcomes, mine, key) for key in ("ttft", "tpot", "turnaround", "queue"))
    early = [_keeps(time_ms, objective.ttft_ms) for time_ms in ttft]
    fluent = [_keeps(time_ms, objective.tpot_ms) for time_ms in tpot]
    has_target = objective.tpot_ms is not None
    return ClassResult(
        count=len(mine),
        ttft=_spread(ttft),
        tpot=_spread(tpot),
        turnaround=_spread(turnaround),
        queue=_spread(queue),
        attainment=_share(early),
        tpot_attainment=_share(fluent) if has_target else None,
        both_attainment=_share([a and b for a, b in zip(early, fluent, strict=True)]) if has_target else None,
        tokens_per_s=tokens_per_s,
        num_preemptions=sum(outcomes["num_preemptions"][number] for number in mine),
        ttft_ms=tuple(sorted(time_ms for time_ms in ttft if time_ms is not None)),
    )


def _times_ms(outcomes: Mapping[str, list[Any]], numbers: Sequence[int], key: str) -> list[float | None]:
    """Returns a column's times of these requests; a request with one token has no time per token."""
    times_s = (outcomes[f"{key}_s"][number] for number in numbers)
    return [None if time_s is None else time_s * 1e3 for time_s in times_s]


def _keeps(time_ms: float | None, objective_ms: float | None) -> bool:
    return time_ms is None or objective_ms is None or time_ms <= objective_ms


def _spread(times_ms: Sequence[float | None]) -> Spread | None:
    return Spread.of([time_ms for time_ms in times_ms if time_ms is not None])


def _share(kept: Sequence[bool]) -> float | None:
    return round(sum(kept) / len(kept), 4) if kept else None
