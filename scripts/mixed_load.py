"""Measures a service under a mixed load: what best-effort work costs the people who wait, and what they cost it.

    python -m scripts.mixed_load --model bench-models/mini-mixtral --policy qllm
    python -m scripts.mixed_load --address 127.0.0.1:50051 --ls sequential --json

Sends random token ids of given lengths, greedy, to a service that runs or that it starts itself. First latency-sensitive
requests alone, for reference; then best-effort clients that never pause, with latency-sensitive requests over them.
"""

import json
import math
import random
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer

from client import AsyncClient, GenerateOptions, GenerationResult, Prompt, QllmError, RequestClass
from demo.load import BE, LS, Foreground, Load, Watcher, Window, run_window
from demo.service import ServiceFailed, Terminated, first_failure, run, running_service
from demo.spread import Spread, ttft, turnaround

_NUM_WARM_UPS = 3
_IDLE_PAUSE_S = 0.1


class LsMode(StrEnum):
    """How latency-sensitive requests arrive."""

    POISSON = "poisson"
    SEQUENTIAL = "sequential"
    SATURATE = "saturate"


@dataclass(frozen=True, slots=True)
class RandomTokens:
    """Prompts of random token ids, fixed by the seed, the class and the number; outputs of a fixed length."""

    vocab_size: int
    num_prompt_tokens: dict[RequestClass, int]
    max_tokens: dict[RequestClass, int]
    seed: int

    def prompt(self, request_class: RequestClass, index: int) -> Prompt:
        """Returns the class's prompt number `index`."""
        chance = random.Random(f"{self.seed} {request_class} {index}")
        return [chance.randrange(self.vocab_size) for _ in range(self.num_prompt_tokens[request_class])]

    def options(self, request_class: RequestClass) -> GenerateOptions:
        """Returns greedy decoding of a fixed length."""
        return GenerateOptions(max_tokens=self.max_tokens[request_class], temperature=0.0, ignore_eos=True)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is sent."""

    num_prompt_tokens: dict[RequestClass, int]
    max_tokens: dict[RequestClass, int]
    foreground: Foreground
    num_be_clients: int
    num_idle: int
    lead_s: float
    seed: int


@dataclass(frozen=True, slots=True)
class Starting:
    """How a service is started, if none runs."""

    policy: str
    options: list[str]
    worker_options: list[str]


async def measure(client: AsyncClient, plan: Plan) -> dict[str, Any]:
    """Runs the plan on a service and returns the figures."""
    info = await client.server_info()
    workload = RandomTokens(info.model.vocab_size, plan.num_prompt_tokens, plan.max_tokens, plan.seed)
    # Numbered apart from the load's prompts, which the service has then never seen.
    warm_up, idle = Load(client, workload, Watcher()), Load(client, workload, Watcher())
    await warm_up.ask_one_by_one(LS, range(-_NUM_WARM_UPS, 0))
    await warm_up.ask(BE, -1)
    await idle.ask_one_by_one(LS, range(10**6, 10**6 + plan.num_idle), _IDLE_PAUSE_S)
    load = Load(client, workload, Watcher())
    window = await run_window(load, plan.foreground, num_be_clients=plan.num_be_clients, lead_s=plan.lead_s)
    facts = {"policy": info.policy, "preempt_at": info.preempt_at, "model": info.model.name}
    return facts | figures(list(idle.answers[LS].values()), window)


def figures(idle: list[GenerationResult], window: Window) -> dict[str, Any]:
    """Turns answers and counters into named figures; counters are differences over the loaded window."""
    ls, be = list(window.answers[LS].values()), list(window.answers[BE].values())
    idle_ttft, loaded_ttft = ttft(idle), ttft(ls)
    idle_turnaround, loaded_turnaround = turnaround(idle), turnaround(ls)
    return {
        "seconds": round(window.seconds, 2),
        "ls_ttft_idle": _rounded(idle_ttft),
        "ls_ttft_loaded": _rounded(loaded_ttft),
        "ls_ttft_ratio_mean": _ratio(loaded_ttft.mean_ms, idle_ttft.mean_ms),
        "ls_ttft_ratio_p50": _ratio(loaded_ttft.p50_ms, idle_ttft.p50_ms),
        "ls_turnaround_idle": _rounded(idle_turnaround),
        "ls_turnaround_loaded": _rounded(loaded_turnaround),
        "ls_turnaround_ratio_mean": _ratio(loaded_turnaround.mean_ms, idle_turnaround.mean_ms),
        "be_turnaround": _rounded(turnaround(be)),
        "output_tokens_per_s": round(window.num_tokens.total() / window.seconds, 2),
        "finished_tokens_per_s": round(window.num_finished_tokens / window.seconds, 2),
        "be_tokens_per_s": round(window.num_tokens[BE] / window.seconds, 2),
        **_counter_figures(window),
    }


def _counter_figures(window: Window) -> dict[str, Any]:
    before, after = window.before, window.after
    ls_busy_ns = after.latency_sensitive.busy_ns - before.latency_sensitive.busy_ns
    be_busy_ns = after.best_effort.busy_ns - before.best_effort.busy_ns
    return {
        "control_idle_share": _ratio(after.control_idle_ns - before.control_idle_ns, after.busy_ns - before.busy_ns),
        "worker_busy_share": _ratio(after.busy_ns - before.busy_ns, window.seconds * 1e9),
        "commands_per_iteration": _ratio(
            after.num_commands - before.num_commands, after.num_iterations - before.num_iterations
        ),
        "preemptions_at_layer": after.num_preemptions_at_layer - before.num_preemptions_at_layer,
        "preemptions_at_expert": after.num_preemptions_at_expert - before.num_preemptions_at_expert,
        "joins": after.num_joins - before.num_joins,
        "offloads": after.num_offloads - before.num_offloads,
        "promotions": after.num_promotions - before.num_promotions,
        "be_share_of_worker_time": _ratio(be_busy_ns, ls_busy_ns + be_busy_ns),
        "be_share_reported": round(after.be_share, 4),
    }


def _rounded(spread: Spread) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else round(value, 2) for name, value in asdict(spread).items()}


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole and not math.isnan(part / whole) else None


@asynccontextmanager
async def _service(address: str | None, model: str | None, starting: Starting) -> AsyncIterator[AsyncClient]:
    """Yields a client of the service at the address, or of one that runs until the block is left."""
    if address is not None:
        async with AsyncClient(address) as client:
            yield client
    elif model is not None:
        async with running_service(
            model, starting.policy, options=starting.options, worker_options=starting.worker_options
        ) as client:
            yield client
    else:
        raise typer.BadParameter("name a running service, or a --model to start one with", param_hint="--address")


async def _run(address: str | None, model: str | None, starting: Starting, plan: Plan) -> dict[str, Any]:
    async with _service(address, model, starting) as client:
        return await measure(client, plan)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def mixed_load(
    address: Annotated[str | None, typer.Option(help="A running service; or start one with --model.")] = None,
    model: Annotated[str | None, typer.Option(help="Start a service for this model.")] = None,
    policy: Annotated[str, typer.Option(help="Its scheduling policy.")] = "qllm",
    preempt_at: Annotated[str | None, typer.Option(help="Its granularity: iteration, layer or expert.")] = None,
    service_arg: Annotated[list[str] | None, typer.Option(help="A further argument for it; may be repeated.")] = None,
    worker_arg: Annotated[list[str] | None, typer.Option(help="An argument for its worker; may be repeated.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long latency-sensitive requests are sent.")] = 60.0,
    lead: Annotated[float, typer.Option(min=0, help="Seconds that best-effort work runs before.")] = 3.0,
    ls: Annotated[LsMode, typer.Option(help="At random times, one by one, or without pause.")] = LsMode.POISSON,
    ls_rate: Annotated[float, typer.Option(min=0.01, help="For poisson: requests a second.")] = 0.7,
    ls_pause: Annotated[float, typer.Option(min=0, help="For sequential: seconds after each answer.")] = 0.5,
    ls_clients: Annotated[int, typer.Option(min=1, help="For saturate: number of clients.")] = 8,
    ls_prompt_tokens: Annotated[int, typer.Option(min=1)] = 80,
    ls_max_tokens: Annotated[int, typer.Option(min=1)] = 16,
    be_clients: Annotated[int, typer.Option(min=0, help="Clients that never pause.")] = 8,
    be_prompt_tokens: Annotated[int, typer.Option(min=1)] = 1100,
    be_max_tokens: Annotated[int, typer.Option(min=1)] = 64,
    idle_requests: Annotated[int, typer.Option(min=1, help="For the idle reference.")] = 20,
    seed: Annotated[int, typer.Option(help="Fixes prompts and arrival times.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Measures a service under a mixed load; exit code 1 if any request failed."""
    plan = Plan(
        num_prompt_tokens={LS: ls_prompt_tokens, BE: be_prompt_tokens},
        max_tokens={LS: ls_max_tokens, BE: be_max_tokens},
        foreground=_foreground(ls, seconds, ls_rate, ls_pause, ls_clients, seed),
        num_be_clients=be_clients,
        num_idle=idle_requests,
        lead_s=lead,
        seed=seed,
    )
    granularity = ["--preempt-at", preempt_at] if preempt_at else []
    starting = Starting(policy, [*granularity, *(service_arg or [])], worker_arg or [])
    _measure_and_print(_run(address, model, starting, plan), as_json=as_json)


def _measure_and_print(measuring: Coroutine[Any, Any, dict[str, Any]], *, as_json: bool) -> None:
    try:
        result = run(measuring)
    except (QllmError, ServiceFailed, Terminated, ExceptionGroup) as failure:
        cause = first_failure(failure)
        typer.echo(f"mixed_load: {type(cause).__name__}: {cause}", err=True)
        raise typer.Exit(1) from None
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:28} {value}")


def _foreground(
    mode: LsMode, seconds: float, rate_per_s: float, pause_s: float, num_clients: int, seed: int
) -> Foreground:
    if mode is LsMode.POISSON:
        return Foreground(seconds, rate_per_s, seed=seed)
    if mode is LsMode.SEQUENTIAL:
        return Foreground(seconds, num_clients=1, pause_s=pause_s)
    return Foreground(seconds, num_clients=num_clients)


if __name__ == "__main__":
    app()
