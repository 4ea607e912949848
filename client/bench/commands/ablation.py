"""`qllm-client bench ablation`: one workload under five set-ups of the scheduler, the same engine beneath all of them.

Each round starts a service for each set-up anew, gives it the identical workload, and stops it; rounds begin
with another set-up each, so that what the machine does meanwhile spreads evenly. Rounds of a set-up count as
one measurement.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from client.bench.commands.measure import provenance_of
from client.bench.console import complain
from client.bench.load.grpc_target import GrpcTarget
from client.bench.load.measurement import pool
from client.bench.load.run import Plan, Run, run_plan, unless
from client.bench.options.load import LoadOptions
from client.bench.options.target import ResultOptions, ServiceArguments
from client.bench.report.ablation_tables import ablation_grids
from client.bench.report.progress import ProgressBar
from client.bench.report.show import Report, check_figures_can_be_drawn
from client.bench.report.tables import warnings
from client.bench.results.gains import Gain, find_gains
from client.bench.results.result_file import ABLATION_SCHEMA, Provenance, Result, dump
from client.bench.results.summary import summarize
from client.bench.service.interrupts import Interrupts, run_interruptibly
from client.bench.service.service import ServiceOptions, running_service
from client.bench.set_ups import SET_UPS, SetUpName

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Experiment:
    """What the ablation measures.

    Attributes:
        model: Directory or hub id of the model.
        set_ups: What to schedule by.
        num_rounds: How often each of them is measured.
        service: Further options of scheduler and worker, the same for all.
        plan: What each run does.
    """

    model: str
    set_ups: Sequence[SetUpName]
    num_rounds: int
    service: ServiceArguments
    plan: Plan

    async def run(self, bar: ProgressBar, interrupts: Interrupts) -> dict[SetUpName, list[Run]]:
        """Runs all rounds, or as many as there are until a signal comes; returns what came of each set-up."""
        runs: dict[SetUpName, list[Run]] = {set_up: [] for set_up in self.set_ups}
        for number in range(self.num_rounds):
            first = number % len(self.set_ups)
            for set_up in (*self.set_ups[first:], *self.set_ups[:first]):
                bar.entitle(f"round {number + 1} of {self.num_rounds}, {set_up}")
                with interrupts.keeping_results():
                    run = await self._run_once(set_up, bar, interrupts)
                if run is not None:
                    runs[set_up].append(run)
                if interrupts.stop.is_set():
                    return runs
        return runs

    async def _run_once(self, set_up: SetUpName, bar: ProgressBar, interrupts: Interrupts) -> Run | None:
        bar.begin("starting the service")
        options = ServiceOptions(self.model, (*SET_UPS[set_up].options, *self.service.scheduler), self.service.worker)
        async with AsyncExitStack() as stack:
            address = await unless(interrupts.stop, stack.enter_async_context(running_service(options)))
            if address is None:
                return None
            target = GrpcTarget(address, ignore_eos=True)
            stack.push_async_callback(target.close)
            return await run_plan(target, self.plan, bar, interrupts.stop)


def ablate(
    model: str,
    set_ups: Sequence[SetUpName],
    num_rounds: int,
    service: ServiceArguments,
    load: LoadOptions,
    results: ResultOptions,
) -> None:
    """Runs the experiment, shows its results, and ends the process with the exit code that fits."""
    results.check()
    check_figures_can_be_drawn(results)
    experiment = Experiment(model, set_ups, num_rounds, service, load.plan())
    options = {"serve": model, "set_ups": [str(set_up) for set_up in set_ups], "rounds": num_rounds}
    provenance = provenance_of(options | asdict(service) | asdict(load))

    async def command(interrupts: Interrupts) -> dict[SetUpName, list[Run]]:
        with ProgressBar(Console(stderr=True)) as bar:
            return await experiment.run(bar, interrupts)

    runs, exit_code = run_interruptibly(command)
    measured = [_result(set_up, of_set_up, load, provenance) for set_up, of_set_up in runs.items() if of_set_up]
    if not measured:
        complain("interrupted before the first measuring window began; nothing was measured")
        raise typer.Exit(exit_code)
    _report(measured).show(results, results.json_file)
    raise typer.Exit(exit_code)


def _result(set_up: SetUpName, runs: Sequence[Run], load: LoadOptions, provenance: Provenance) -> Result:
    measurement = pool([run.measurement for run in runs])
    return Result.of(
        measurement,
        summarize(measurement, load.objectives),
        label=set_up.value,
        provenance=provenance,
        target=runs[0].facts,
        is_interrupted=any(run.is_interrupted for run in runs),
    )


def _report(measured: Sequence[Result]) -> Report:
    found = find_gains({result.label: result.summary for result in measured})

    def draw() -> "Figure":
        from client.bench.report.ablation_figure import ablation_figure

        return ablation_figure(measured)

    return Report(
        title="Ablation: what each part of the scheduling buys",
        lead=f"{measured[0].target.model}: the same engine and the same requests under each set-up",
        grids=ablation_grids(measured, found),
        warnings=[f"{result.label}: {warning}" for result in measured for warning in warnings(result)],
        draw=draw,
        provenances=[measured[0].provenance],
        json=_to_json(measured, found),
    )


def _to_json(measured: Sequence[Result], found: Sequence[Gain]) -> str:
    return dump(
        {
            "schema": ABLATION_SCHEMA,
            "gains": [asdict(gain) for gain in found],
            "recordings": [result.to_json() for result in measured],
        }
    )
