"""`qllm-client bench ablation`: one workload under five set-ups of the scheduler, the same engine beneath all of them.

Set-ups take turns (see `memory.in_turns`) with the identical workload. Rounds of a set-up count as one measurement.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from qllm.client.bench.commands.measure import provenance_of
from qllm.client.bench.commands.memory.in_turns import InTurns
from qllm.client.bench.load.grpc_target import GrpcTarget
from qllm.client.bench.load.measurement import pool
from qllm.client.bench.load.run import Run, run_plan
from qllm.client.bench.options.load import LoadOptions
from qllm.client.bench.options.qllm import QllmOptions
from qllm.client.bench.options.target import ResultOptions, ServiceArguments
from qllm.client.bench.report.ablation_tables import ablation_grids
from qllm.client.bench.report.progress import ProgressBar
from qllm.client.bench.report.show import Report, check_figures_can_be_drawn
from qllm.client.bench.report.tables import warnings
from qllm.client.bench.results.gains import Gain, find_gains
from qllm.client.bench.results.result_file import ABLATION_SCHEMA, Provenance, Result, dump
from qllm.client.bench.results.summary import summarize
from qllm.client.bench.set_ups import SET_UPS, SetUpName, Variant

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    plan = load.plan()
    options = {"serve": model, "set_ups": [str(set_up) for set_up in set_ups], "rounds": num_rounds}
    provenance = provenance_of(options | asdict(service) | asdict(load))

    async def measure(target: GrpcTarget, bar: ProgressBar, stop: asyncio.Event) -> Run | None:
        return await run_plan(target, plan, bar, stop)

    variants = [Variant(set_up, scheduler=SET_UPS[set_up].options) for set_up in set_ups]
    runs, exit_code = InTurns(QllmOptions(serve=model), service, variants, num_rounds).run(measure)
    by_set_up = {set_up: [run for label, run in runs if label == set_up] for set_up in set_ups}
    measured = [_result(set_up, of_set_up, load, provenance) for set_up, of_set_up in by_set_up.items() if of_set_up]
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
        from qllm.client.bench.report.ablation_figure import ablation_figure

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
