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

from client.bench.errors import BenchError
from client.bench.load.workload import BE, LS
from client.bench.results.spread import Spread
from client.bench.set_ups import SetUp
from client.bench.simulation.traffic import Row
from client.messages import RequestClass

_MODULE = "scheduler_svc.simulation"
_CLASSES = {LS: "ls", BE: "be"}


class SimulationFailed(BenchError):
    """A simulation did not end well; the message is the simulator's own."""


@dataclass(frozen=True, slots=True)
class ClassResult:
    """What the requests of one class met, in virtual time; None where there were none.

    Attributes:
        attainment: Share of them whose first token came within the objective.
        ttft_ms: All times to first token, sorted.
    """

    count: int
    ttft: Spread | None
    turnaround: Spread | None
    queue: Spread | None
    attainment: float | None
    num_preemptions: int
    ttft_ms: tuple[float, ...] = field(repr=False, default=())


@dataclass(frozen=True, slots=True)
class SimulatedResult:
    """One simulation's figures.

    Attributes:
        virtual_s: Virtual time from the start until the last request had ended.
        cpu_s: Processor time that the simulation took.
        tokens_per_s: Output tokens of all requests by `virtual_s`.
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


def job_of(set_up: SetUp, cost_table: object, rows: Sequence[Row]) -> dict[str, object]:
    """Returns the simulator's job: these requests under this set-up."""
    return {
        "cost_table": cost_table,
        "policy": set_up.policy,
        "preempt_at": set_up.preempt_at,
        "settings": dict(set_up.settings),
        "requests": rows,
    }


async def simulate_all(
    jobs: Sequence[Mapping[str, object]], *, slo_s: float, num_processes: int, on_done: Callable[[], None]
) -> list[SimulatedResult]:
    """Runs jobs and returns their results in the same order; the first failure ends them all.

    Raises:
        SimulationFailed: The simulator refused a job, or is not installed.
    """
    places = asyncio.Semaphore(num_processes)

    async def run(job: Mapping[str, object]) -> SimulatedResult:
        async with places:
            result = _read(await _run_process(json.dumps(job).encode()), slo_s)
        on_done()
        return result

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


def _read(content: Mapping[str, Any], slo_s: float) -> SimulatedResult:
    outcomes: Mapping[str, list[Any]] = content["outcomes"]
    num_output_tokens = sum(outcomes["num_output_tokens"])
    return SimulatedResult(
        virtual_s=content["virtual_s"],
        cpu_s=content["cpu_s"],
        tokens_per_s=round(num_output_tokens / content["virtual_s"], 3) if content["virtual_s"] else 0.0,
        num_events=content["num_events"],
        classes={request_class: _read_class(outcomes, name, slo_s) for request_class, name in _CLASSES.items()},
        counters=content["counters"],
    )


def _read_class(outcomes: Mapping[str, list[Any]], name: str, slo_s: float) -> ClassResult:
    mine = [number for number, other in enumerate(outcomes["request_class"]) if other == name]
    times_ms = {key: [outcomes[key][number] * 1e3 for number in mine] for key in ("ttft_s", "turnaround_s", "queue_s")}
    in_time = sum(time_ms <= slo_s * 1e3 for time_ms in times_ms["ttft_s"])
    return ClassResult(
        count=len(mine),
        ttft=Spread.of(times_ms["ttft_s"]),
        turnaround=Spread.of(times_ms["turnaround_s"]),
        queue=Spread.of(times_ms["queue_s"]),
        attainment=round(in_time / len(mine), 4) if mine else None,
        num_preemptions=sum(outcomes["num_preemptions"][number] for number in mine),
        ttft_ms=tuple(sorted(times_ms["ttft_s"])),
    )
