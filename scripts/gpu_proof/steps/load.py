"""One scheduler in front of a worker that runs already, under the paper's load at one rate; writes the figures as JSON.

Started by `paper` as a process of its own, so that the load takes no time of the worker's:

    python -m scripts.gpu_proof.steps.load SETTINGS_AS_JSON FILE_FOR_THE_FIGURES
"""

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qllm.client.bench.commands.paper import PaperOptions
from qllm.client.bench.commands.paper_results import MeasuredResult, iteration_ms_of
from qllm.client.bench.load.grpc_target import GrpcTarget
from qllm.client.bench.load.load import Load
from qllm.client.bench.load.run import Run, run_plan
from qllm.client.bench.service.service import ServiceOptions, running_service
from qllm.client.bench.set_ups import SET_UPS, SetUpName

_SLO_S = 3.0
_MOST_OUTPUT_TOKENS = 100


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured.

    Attributes:
        endpoint: Where the worker looks for its scheduler.
        set_up: How is scheduled.
        rate: Requests a second.
        num_idle: LS requests on the idle service before.
        warm_up_s: Seconds of load before the window.
        window_s: Seconds of the window.
        drain_s: Longest wait for its requests to end.
        most_tokens: Where prompts are cut.
    """

    endpoint: str
    set_up: str
    rate: float
    num_idle: int
    warm_up_s: float
    window_s: float
    drain_s: float
    most_tokens: int


class _Phases:
    """Says in the log which phase begins; figures are the proof's to show."""

    def begin(self, phase: str, seconds: float | None = None) -> None:
        """A phase begins."""
        sys.stderr.write(f"load: {phase}{f', {seconds:.0f} s' if seconds else ''}\n")

    def update(self, elapsed_s: float, load: Load) -> None:
        """Nothing."""


async def measure(settings: Settings) -> dict[str, Any]:
    """Measures one set-up at one rate."""
    options = PaperOptions(
        seconds=settings.window_s,
        warm_up=settings.warm_up_s,
        drain=settings.drain_s,
        max_prompt_tokens=settings.most_tokens,
        max_output_tokens=min(_MOST_OUTPUT_TOKENS, settings.most_tokens),
    )
    scheduler = SET_UPS[SetUpName(settings.set_up)].options
    service = ServiceOptions("", scheduler=scheduler, control_endpoint=settings.endpoint)
    async with running_service(service, echo=True) as address:
        target = GrpcTarget(address, ignore_eos=True)
        try:
            run = await run_plan(target, options.plan(settings.rate, settings.num_idle), _Phases(), asyncio.Event())
        finally:
            await target.close()
    if run is None:
        raise RuntimeError("the run was stopped before its window")
    return _figures(run, settings.window_s)


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
    figures = asyncio.run(measure(Settings(**json.loads(sys.argv[1]))))
    Path(sys.argv[2]).write_text(json.dumps(figures), encoding="utf-8")
