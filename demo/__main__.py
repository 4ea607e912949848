"""Shows what QLLM does: the same load on the real service under `qllm` and under `fcfs`, and what it costs the waiting.

Run it with `make demo`, or `python -m demo --help`. Owns the order of events; the parts do the work.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from qllm.client.bench.errors import BenchError
from qllm.client.bench.load.grpc_target import GrpcTarget
from qllm.client.bench.load.load import Load
from qllm.client.bench.load.run import Plan, run_plan
from qllm.client.bench.load.workload import BE, LS, ClosedLoop, Lengths, Poisson
from qllm.client.bench.options.target import ServiceArguments
from qllm.client.bench.service.interrupts import Interrupted, run_until_interrupted
from qllm.client.bench.service.service import ServiceOptions, running_service
from qllm.command_line import run_command
from qllm.options import with_settings
from rich.console import Console

from demo.apart_target import ApartTarget
from demo.prompts import DemoPrompts
from demo.report import Outcome, compare, results_table
from demo.sentence import sentence
from demo.show import Show, make_show
from demo.watched_target import Tokens, WatchedTarget

_NUM_IDLE_QUESTIONS = 8
_NUM_REFERENCES = 6
_LS_LENGTHS = Lengths(20, 24)
_BE_LENGTHS = Lengths(1_900, 48)  # which together stays within the demo model's 2,048
_LEAD_S = 1.0
_DRAIN_S = 60.0
_MAX_IN_FLIGHT = 4096
_POLL_S = 0.2
# Batches of other sizes round differently. In float32 that does not decide between two tokens; in bfloat16 it may.
_WORKER_OPTIONS = ("--dtype", "float32")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user chose.

    Attributes:
        scheduler: Further options of the scheduler, the same under both policies.
        worker: Further options of its worker, likewise.
    """

    model: str
    seconds: float
    num_be_clients: int
    ls_rate_per_s: float
    seed: int
    scheduler: tuple[str, ...] = ()
    worker: tuple[str, ...] = ()

    def service(self, policy: str) -> ServiceOptions:
        """Returns how the service is started under a policy, whatever the further options say of it."""
        scheduler = (*self.scheduler, "--policy", policy)
        return ServiceOptions(self.model, scheduler, (*_WORKER_OPTIONS, *self.worker))

    def plan(self, num_idle: int) -> Plan:
        """Returns the load, which is the same under both policies, after so many requests on the idle service."""
        return Plan(
            workload={
                LS: Poisson(self.ls_rate_per_s, _LS_LENGTHS, f"ls {self.seed}"),
                BE: ClosedLoop(self.num_be_clients, 0.0, _BE_LENGTHS),
            },
            prompts=DemoPrompts(self.seed),
            vocab_size=None,
            num_idle=num_idle,
            warm_up_s=_LEAD_S,
            seconds=self.seconds,
            drain_s=_DRAIN_S,
            max_in_flight=_MAX_IN_FLIGHT,
        )


async def run_demo(settings: Settings, console: Console) -> bool:
    """Runs everything, prints the report, and returns whether all outputs were identical.

    Raises:
        BenchError: A service did not come up, ended, or failed a request.
    """
    with make_show(console) as show:
        show.entitle("Starting the service: scheduler and worker, policy qllm")
        async with _served(settings.service("qllm"), show) as target:
            show.entitle("Nothing else to do: some best-effort prompts for reference")
            references = await _ask_references(WatchedTarget(target, show), settings)
            show.entitle(
                f"{settings.num_be_clients} best-effort clients flood it, latency-sensitive requests come: qllm"
            )
            qllm = await _run_load(target, settings.plan(_NUM_IDLE_QUESTIONS), show)
        show.entitle("Starting the service again, policy fcfs")
        async with _served(settings.service("fcfs"), show) as target:
            show.entitle("The same requests at the same times, first come first served: fcfs")
            fcfs = await _run_load(target, settings.plan(0), show)
    return _report(console, references, fcfs, qllm)


@asynccontextmanager
async def _served(options: ServiceOptions, show: Show) -> AsyncIterator[ApartTarget]:
    """Yields a service, asked for chat answers by latency-sensitive requests; shows its counters.

    No request finds what another computed: the references would else be what the load is answered from.
    """
    async with running_service(options) as address:
        target = ApartTarget(GrpcTarget(address, ignore_eos=True, chat={LS}))
        polling = asyncio.create_task(_poll(target, show))
        try:
            yield target
        finally:
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)
            await target.close()


async def _poll(target: ApartTarget, show: Show) -> None:
    while True:
        show.counted(await target.counters())
        await asyncio.sleep(_POLL_S)


async def _ask_references(target: WatchedTarget, settings: Settings) -> Tokens:
    """Returns what the idle service answers to the first best-effort prompts, asked one by one."""
    load = Load(target, DemoPrompts(settings.seed), max_in_flight=1)
    for index in range(_NUM_REFERENCES):
        await load.ask(BE, index, _BE_LENGTHS, load.now_s())
    return target.tokens(BE)


async def _run_load(target: ApartTarget, plan: Plan, show: Show) -> Outcome:
    watched = WatchedTarget(target, show)
    run = await run_plan(watched, plan, show, asyncio.Event())
    assert run is not None, "nothing stops it early"
    return Outcome(run.facts, run.measurement, watched.tokens(BE))


def _report(console: Console, references: Tokens, fcfs: Outcome, qllm: Outcome) -> bool:
    times = "once" if qllm.num_stops == 1 else f"{qllm.num_stops} times"
    interrupted = f"Best-effort tokens, stopped {times} inside the model (qllm),"
    comparisons = (
        compare(f"{interrupted} against alone on an idle service", qllm.tokens, references),
        compare(f"{interrupted} against never stopped there (fcfs)", qllm.tokens, fcfs.tokens),
    )
    console.print()
    console.print(results_table(fcfs, qllm))
    console.print(sentence(fcfs.summary, qllm.summary), highlight=False, soft_wrap=True)
    for comparison in comparisons:
        console.print(
            str(comparison), style="green" if comparison.is_proof else "bold red", highlight=False, soft_wrap=True
        )
    return all(comparison.is_proof for comparison in comparisons)


EXAMPLES = """
[bold]Examples[/bold]

  make demo

  make demo ARGS="--seconds 5 -- --ls-tpot-ms 20"

  python -m demo --seconds 5 --scheduler-arg=--ls-tpot-ms=20 --worker-arg=--threads=1
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.command(epilog=EXAMPLES)
@with_settings
def demo(
    service: ServiceArguments,
    model: Annotated[str, typer.Option(help="Directory or hub id of a Mixture-of-Experts model.")] = str(
        Path(__file__).parent / "model"
    ),
    seconds: Annotated[float, typer.Option(min=1, help="Length of the load under each policy.")] = 20.0,
    be_clients: Annotated[int, typer.Option(min=1, help="Best-effort clients, each always with one request.")] = 12,
    ls_rate: Annotated[float, typer.Option(min=0.01, help="Latency-sensitive requests a second, on average.")] = 2.0,
    seed: Annotated[int, typer.Option(help="Fixes the prompts and the arrival times.")] = 0,
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="SCHEDULER_OPTIONS", help="Passes on to the scheduler what stands after --."),
    ] = None,
) -> None:
    """Floods a small real model with best-effort work, asks questions meanwhile, and compares qllm with fcfs.

    Starts the scheduler and the worker as their own processes and stops them at the end; Ctrl-C stops them too.
    The exit code is 1 if any best-effort output differs from its uninterrupted reference, or on an error.
    """
    console, errors = Console(), Console(stderr=True)
    scheduler = (*service.scheduler, *(options or ()))
    settings = Settings(model, seconds, be_clients, ls_rate, seed, scheduler, service.worker)

    try:
        all_identical, _ = run_until_interrupted(lambda _: run_demo(settings, console))
    except Interrupted as interrupted:
        errors.print("Interrupted; both processes were stopped.")
        raise typer.Exit(interrupted.exit_code) from None
    except BenchError as failure:
        errors.print(f"The demo failed: {failure}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    raise typer.Exit(0 if all_identical else 1)


def main() -> None:
    """Entry point of `python -m demo`."""
    run_command(app, "python -m demo")


if __name__ == "__main__":
    main()
