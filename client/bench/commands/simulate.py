"""`qllm-client bench simulate`: the scheduler core over minutes or hours of traffic in virtual time, and what it comes to.

Every number is simulated: the core is the one that serves, the worker takes the times of a cost table.
"""

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from client.bench.commands.measure import provenance_of
from client.bench.console import complaining
from client.bench.errors import BenchError
from client.bench.load.trace import read_trace
from client.bench.options.groups import with_option_groups
from client.bench.options.target import ResultOptions
from client.bench.report.claims import claims_grid
from client.bench.report.show import Report, check_figures_can_be_drawn
from client.bench.report.simulate_tables import cost_grid, result_grids, stops_grid
from client.bench.results.result_file import Provenance, dump
from client.bench.service.interrupts import Interrupts, run_interruptibly
from client.bench.simulation.simulator import SimulatedResult, job_of, simulate_all
from client.bench.simulation.sweep import Axis, Point, PointResult, choose_setups, parse_values, points, with_settings
from client.bench.simulation.traffic import Mix, Replay, Traffic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = "qllm-bench-simulation/1"
A100 = "a100-mixtral-8x7b"
EXAMPLES = """
[bold]Examples[/bold]

  qllm-client bench simulate --png simulated.png            (the paper's set-up: 1 to 8 requests a second)

  qllm-client bench simulate --sweep ls-share --rate 2 --html shares.html

  qllm-client bench simulate --trace conv.csv --time-scale 4 --ls-share 0.2 --set-up qllm-expert

  qllm-client bench simulate --set-up qllm-expert --set min_share=0.2 --set be_chunk_tokens=512
"""
_TRAFFIC, _SETUPS = "Traffic", "What is compared"


@dataclass(frozen=True, slots=True)
class TrafficOptions:
    """Who asks, and when."""

    rate: Annotated[
        float, typer.Option(min=0.001, max=10_000, rich_help_panel=_TRAFFIC, help="Requests a second, both classes.")
    ] = 4.0
    seconds: Annotated[
        float,
        typer.Option(min=1, max=1e6, rich_help_panel=_TRAFFIC, help="How long they arrive; all are served to the end."),
    ] = 120.0
    ls_share: Annotated[
        float, typer.Option(min=0, max=1, rich_help_panel=_TRAFFIC, help="Share of latency-sensitive ones.")
    ] = 0.2
    max_output_tokens: Annotated[
        int, typer.Option(min=4, max=8192, rich_help_panel=_TRAFFIC, help="Where outputs are cut.")
    ] = 100
    seed: Annotated[int, typer.Option(rich_help_panel=_TRAFFIC, help="Fixes arrivals, classes and lengths.")] = 0
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_TRAFFIC,
            help="TIMESTAMP, ContextTokens, GeneratedTokens, instead of a rate.",
        ),
    ] = None
    time_scale: Annotated[
        float, typer.Option(min=1e-3, max=1e3, rich_help_panel=_TRAFFIC, help="Multiplies the trace's times.")
    ] = 1.0

    def traffic(self) -> Traffic:
        """Returns the traffic; raises BadTrace if a trace cannot be read."""
        if self.trace is not None:
            return Replay(read_trace(self.trace), self.trace.name, self.time_scale, self.ls_share, self.seed)
        return Mix(
            rate_per_s=self.rate,
            seconds=self.seconds,
            ls_share=self.ls_share,
            max_output_tokens=self.max_output_tokens,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True)
class ExperimentOptions:
    """What is compared, on what."""

    sweep: Annotated[
        Axis | None,
        typer.Option(rich_help_panel=_SETUPS, help="What to vary. Default: the rate, or nothing on a trace."),
    ] = None
    values: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", rich_help_panel=_SETUPS, help="At which values; there are defaults."),
    ] = None
    set_up: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=_SETUPS,
            help="fcfs, paper, priority-iteration, qllm-layer, qllm-expert, or qllm-target: 400 ms a token; repeatable.",
        ),
    ] = None
    set: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER",
            rich_help_panel=_SETUPS,
            help="A limit of the core, such as ls_stretch=1; repeatable.",
        ),
    ] = None
    cost_table: Annotated[
        str, typer.Option(metavar="NAME|FILE", rich_help_panel=_SETUPS, help="How long the worker's work takes.")
    ] = A100
    slo_s: Annotated[
        float, typer.Option(min=0.001, rich_help_panel=_SETUPS, help="Objective for latency-sensitive first tokens.")
    ] = 3.0
    processes: Annotated[int, typer.Option(min=1, max=256, rich_help_panel=_SETUPS, help="Simulations at a time.")] = (
        os.cpu_count() or 1
    )

    def points(self, traffic: Traffic) -> list[Point]:
        """Returns what to simulate; raises BenchError for what cannot be."""
        axis = self.sweep or (Axis.RATE if isinstance(traffic, Mix) else None)
        if axis is None and self.values is not None:
            raise BenchError("--values: allowed with --sweep only")
        values = parse_values(self.values) if self.values is not None else axis.values if axis else ()
        return points(axis, values, traffic, with_settings(choose_setups(self.set_up or ()), self.set or ()))

    def read_cost_table(self) -> object:
        """Returns the file's content, or the name, which the simulator knows or refuses."""
        path = Path(self.cost_table)
        if not path.is_file():
            return self.cost_table
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise BenchError(f"--cost-table: {path}: {error}") from None


@with_option_groups
def simulate(experiment: ExperimentOptions, traffic: TrafficOptions, results: ResultOptions) -> None:
    """Simulates the scheduler on a machine that is not here: an hour of traffic takes seconds.

    Reproduces the paper's set-up by default (Mixtral 8x7B on an A100, 20 % latency-sensitive) and prints its claims beside what
    the simulation came to. All set-ups meet the same requests at the same times. Moving caches and talking to the worker take no
    time here; experts are chosen evenly.
    """
    results.check()
    with complaining():
        check_figures_can_be_drawn(results)
        source = traffic.traffic()
        planned = experiment.points(source)
        cost_table = experiment.read_cost_table()
        provenance = provenance_of(asdict(experiment) | asdict(traffic))

        async def command(_: Interrupts) -> list[PointResult[SimulatedResult]]:
            return await _run(planned, cost_table, experiment.slo_s, experiment.processes)

        sweep, _ = run_interruptibly(command)
        report = _report(experiment, source, sweep, planned, provenance)
        typer.echo(report.lead)
        report.show(results, results.json_file)


async def _run(
    planned: Sequence[Point], cost_table: object, slo_s: float, num_processes: int
) -> list[PointResult[SimulatedResult]]:
    jobs = [
        job_of(setup, cost_table, rows)
        for point in planned
        for rows in [await asyncio.to_thread(point.traffic.rows)]
        for setup in point.setups
    ]
    console = Console(stderr=True)
    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(jobs))
        found = iter(
            await simulate_all(jobs, slo_s=slo_s, num_processes=num_processes, on_done=lambda: progress.advance(task))
        )
    return [PointResult(point.value, {setup.label: next(found) for setup in point.setups}) for point in planned]


def _report(
    experiment: ExperimentOptions,
    traffic: Traffic,
    sweep: Sequence[PointResult[SimulatedResult]],
    planned: Sequence[Point],
    provenance: Provenance,
) -> Report:
    axis = experiment.sweep or (Axis.RATE if isinstance(traffic, Mix) else None)
    title = f"SIMULATED on {Path(experiment.cost_table).stem}: {traffic.describe(axis)}"
    claims = claims_grid(sweep, experiment.slo_s, "SIMULATED") if axis is Axis.RATE else None

    def draw() -> "Figure":
        from client.bench.report.simulate_figure import point_figure, sweep_figure

        return sweep_figure(axis, sweep, experiment.slo_s, title) if axis else point_figure(sweep[0], title)

    return Report(
        title="SIMULATED: the scheduler in virtual time",
        lead=title,
        grids=[
            *result_grids(axis, sweep, experiment.slo_s, "SIMULATED"),
            stops_grid(axis, sweep),
            *([claims] if claims else []),
            cost_grid(sweep),
        ],
        warnings=[],
        draw=draw,
        provenances=[provenance],
        json=_to_json(sweep, planned, provenance),
    )


def _to_json(sweep: Sequence[PointResult[SimulatedResult]], planned: Sequence[Point], provenance: Provenance) -> str:
    return dump(
        {
            "schema": SCHEMA,
            "is_simulated": True,
            "provenance": asdict(provenance),
            "points": [
                {
                    "value": point.value,
                    "traffic": plan.traffic.describe(),
                    "results": {
                        setup.label: {"setup": asdict(setup), **point.results[setup.label].to_json()}
                        for setup in plan.setups
                    },
                }
                for point, plan in zip(sweep, planned, strict=True)
            ],
        }
    )
