"""`qllm-client bench`: one measurement of one server."""

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from qllm.client.bench.console import EXIT_FAILED, complain
from qllm.client.bench.load.run import Plan, Run, run_plan
from qllm.client.bench.load.target import TargetFacts
from qllm.client.bench.options.load import LoadOptions
from qllm.client.bench.options.target import ResultOptions, ServiceArguments, TargetOptions
from qllm.client.bench.report.progress import ProgressBar
from qllm.client.bench.report.show import Report, check_figures_can_be_drawn
from qllm.client.bench.report.tables import result_grids, warnings
from qllm.client.bench.results.environment import environment
from qllm.client.bench.results.result_file import Provenance, Result, dump
from qllm.client.bench.results.summary import summarize
from qllm.client.bench.service.interrupts import Interrupts, run_interruptibly
from qllm.client.bench.service.service import ServiceOptions, running_service
from rich.console import Console

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KEY_OPTION, _HIDDEN = "--api-key", "…"


def measure(
    target: TargetOptions, service: ServiceArguments, load: LoadOptions, results: ResultOptions, label: str | None
) -> None:
    """Measures a server, shows the results, and ends the process with the exit code that fits."""
    target.check()
    results.check()
    check_figures_can_be_drawn(results)
    plan = load.plan(chat=target.chat)
    provenance = provenance_of(asdict(target) | asdict(service) | asdict(load))

    async def command(interrupts: Interrupts) -> Run | None:
        with ProgressBar(Console(stderr=True)) as bar:
            return await _run(target, service, plan, bar, interrupts)

    run, exit_code = run_interruptibly(command)
    if run is None:
        complain("interrupted before the measuring window began; nothing was measured")
        raise typer.Exit(exit_code)
    result = Result.of(
        run.measurement,
        summarize(run.measurement, load.objectives),
        label=label or label_of(run.facts),
        provenance=provenance,
        target=run.facts,
        is_interrupted=run.is_interrupted,
    )
    report_of(result).show(results, results.json_file)
    has_answers = result.summary.ls.num_done + result.summary.be.num_done > 0
    raise typer.Exit(exit_code or (0 if has_answers else EXIT_FAILED))


def report_of(result: Result) -> Report:
    """Returns what is shown of one result."""

    def draw() -> "Figure":
        from qllm.client.bench.report.figures import result_figure

        return result_figure(result)

    return Report(
        title=f"Benchmark: {result.label}",
        lead=f"{result.target.model}, {result.target.kind}, {result.target.address}",
        grids=result_grids(result),
        warnings=warnings(result),
        draw=draw,
        provenances=[result.provenance],
        json=dump(result.to_json()),
    )


def provenance_of(options: Mapping[str, object]) -> Provenance:
    """Returns how a result that is measured now comes to be; options that were left out are left out."""
    config = {
        name: str(value) if isinstance(value, Path) else value for name, value in options.items() if value is not None
    }
    return Provenance(_command_line(), datetime.now().astimezone().isoformat(timespec="seconds"), config, environment())


def _command_line() -> tuple[str, ...]:
    """Returns the command as it was given, without the API key: results are passed on."""
    words = ["qllm-client", *sys.argv[1:]]
    for place, word in enumerate(words):
        option, equals, _ = word.partition("=")
        if option == _KEY_OPTION and equals:
            words[place] = f"{_KEY_OPTION}={_HIDDEN}"
        elif words[place - 1] == _KEY_OPTION:
            words[place] = _HIDDEN
    return tuple(words)


async def _run(
    target: TargetOptions, service: ServiceArguments, plan: Plan, bar: ProgressBar, interrupts: Interrupts
) -> Run | None:
    async with grpc_address(target, service, bar) as address:
        server = target.target(address)
        try:
            with interrupts.keeping_results():
                return await run_plan(server, plan, bar, interrupts.stop)
        finally:
            await server.close()


@asynccontextmanager
async def grpc_address(target: TargetOptions, service: ServiceArguments, bar: ProgressBar) -> AsyncIterator[str | None]:
    """Yields the address of the QLLM service, which is started if that is asked for; None where HTTP is spoken."""
    if target.serve is None:
        yield target.grpc
        return
    bar.begin("starting the service")
    async with running_service(ServiceOptions(target.serve, service.scheduler, service.worker)) as address:
        yield address


def label_of(facts: TargetFacts) -> str:
    """Returns what a server is called that was given no name."""
    policy = facts.details.get("policy")
    return f"{policy} ({facts.details.get('preempt_at')})" if policy else f"{facts.model} at {facts.address}"
