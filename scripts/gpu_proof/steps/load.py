"""One scheduler in front of a worker that runs already, under the paper's load at one rate; prints the figures as JSON.

Started by `paper` as a process of its own, so that the load takes no time of the worker's.
"""

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Any

from client.bench.commands.ablation import SCHEDULER_OPTIONS, SetUp
from client.bench.commands.paper import PaperOptions
from client.bench.commands.paper_results import MeasuredResult, iteration_ms_of
from client.bench.load.grpc_target import GrpcTarget
from client.bench.load.load import Load
from client.bench.load.run import Run, run_plan
from client.bench.service.service import ServiceOptions, running_service

_START_SHARE = 0.15  # of the time: starting the scheduler, warming up, idle requests
_WINDOW_SHARE = 0.55
_LONGEST_WINDOW_S = 60.0
_SLO_S = 3.0


@dataclass(frozen=True, slots=True)
class _Silence:
    """Shows nothing: the proof shows the figures."""

    def begin(self, phase: str, seconds: float | None = None) -> None:
        """Says which phase begins, for the log."""
        sys.stderr.write(f"load: {phase}{f', {seconds:.0f} s' if seconds else ''}\n")

    def update(self, elapsed_s: float, load: Load) -> None:
        """Nothing."""


async def measure(endpoint: str, set_up: SetUp, rate: float, seconds: float, most_tokens: int) -> dict[str, Any]:
    """Measures one set-up at one rate within about so many seconds."""
    window_s = min(max(seconds * _WINDOW_SHARE, 1.0), _LONGEST_WINDOW_S)
    options = PaperOptions(
        seconds=window_s,
        warm_up=min(3.0, seconds * _START_SHARE / 2),
        drain=max(1.0, seconds * (1 - _WINDOW_SHARE - _START_SHARE)),
        max_prompt_tokens=most_tokens,
        max_output_tokens=min(100, most_tokens),
    )
    service = ServiceOptions("", scheduler=SCHEDULER_OPTIONS[set_up], control_endpoint=endpoint)
    async with running_service(service, echo=True) as address:
        target = GrpcTarget(address, ignore_eos=True)
        try:
            run = await run_plan(target, options.plan(rate, num_idle=3), _Silence(), asyncio.Event())
        finally:
            await target.close()
    if run is None:
        raise RuntimeError("the run was stopped before its window")
    return _figures(run, window_s)


def _figures(run: Run, window_s: float) -> dict[str, Any]:
    result = MeasuredResult.of(run.measurement, _SLO_S, iteration_ms_of(run.measurement))
    ls, be, counters = result.ls, result.be, run.measurement.counters
    return {
        "ls_ttft_ms": ls.ttft and ls.ttft.mean_ms,
        "ls_ttft_p99_ms": ls.ttft and ls.ttft.p99_ms,
        "ls_queue_p99_ms": ls.queue and ls.queue.p99_ms,
        "ls_turnaround_ms": ls.turnaround and ls.turnaround.mean_ms,
        "be_turnaround_ms": be.turnaround and be.turnaround.mean_ms,
        "tokens_per_s": result.tokens_per_s,
        "idle_ms_per_token": result.iteration_ms,
        "ls": ls.count,
        "be": be.count,
        "stops_at_layers": counters.get("num_preemptions_at_layer"),
        "stops_at_experts": counters.get("num_preemptions_at_expert"),
        "window_s": window_s,
    }


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    given["set_up"] = SetUp(given["set_up"])
    print(json.dumps(asyncio.run(measure(**given))))
