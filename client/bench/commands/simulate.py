"""`qllm-client bench simulate`: the scheduler core over minutes or hours of traffic in virtual time, and its results.

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
from qllm.options import with_settings
from qllm.settings import Setting
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from client.bench.commands.measure import provenance_of
from client.bench.console import complaining
from client.bench.errors import BenchError
from client.bench.load.trace import read_trace
from client.bench.options.target import ResultOptions
from client.bench.report.claims import claims_grid
from client.bench.report.show import Report, check_figures_can_be_drawn
from client.bench.report.simulate_tables import cost_grid, result_grids, stops_grid
from client.bench.results.result_file import Provenance, dump
from client.bench.service.interrupts import Interrupts, run_interruptibly
from client.bench.simulation.simulator import SimulatedResult, job_of, simulate_all
from client.bench.simulation.sweep import Axis, Point, PointResult, apply_settings, choose_set_ups, parse_values, points
from client.bench.simulation.traffic import Mix, ReplayedTrace, Traffic

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
_TRAFFIC, _SET_UPS = "Traffic", "What is compared"


@dataclass(frozen=True, slots=True)
class TrafficOptions:
    """Who asks, and when."""

    rate: Annotated[
        float,
        Setting(0.001, 10_000, panel=_TRAFFIC),
        "Sets how many requests of both classes arrive in a second.",
    ] = 4.0
    seconds: Annotated[
        float,
        Setting(1, 1e6, panel=_TRAFFIC),
        "Sets for how many seconds requests arrive. All of them are served to the end.",
    ] = 120.0
    ls_share: Annotated[
        float,
        Setting(0, 1, panel=_TRAFFIC),
        "Sets which share of the requests is latency-sensitive.",
    ] = 0.2
    max_output_tokens: Annotated[
        int,
        Setting(4, 8192, panel=_TRAFFIC),
        "Cuts outputs at so many tokens.",
    ] = 100
    seed: Annotated[
        int,
        Setting(panel=_TRAFFIC),
        "Fixes the random times of arrivals, classes and lengths.",
    ] = 0
    trace: Annotated[
        Path | None,
        Setting(metavar="FILE", panel=_TRAFFIC),
        "Takes the requests from a file with the columns TIMESTAMP, ContextTokens and "
        "GeneratedTokens, instead of --rate.",
    ] = None
    time_scale: Annotated[
        float,
        Setting(1e-3, 1e3, panel=_TRAFFIC),
        "Multiplies the times of the trace.",
    ] = 1.0

    def traffic(self) -> Traffic:
        """Returns the traffic; raises BadTrace if a trace cannot be read."""
        if self.trace is not None:
            return ReplayedTrace(read_trace(self.trace), self.trace.name, self.time_scale, self.ls_share, self.seed)
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
        Setting(panel=_SET_UPS, unset="the rate, or nothing on a trace"),
        "Chooses what is varied from one simulation to the next.",
    ] = None
    values: Annotated[
        str | None,
        Setting(metavar="A,B,...", panel=_SET_UPS, unset="some that fit what is varied"),
        "Lists the values that --sweep takes.",
    ] = None
    set_up: Annotated[
        list[str] | None,
        Setting(panel=_SET_UPS, unset="all"),
        "Chooses a set-up to compare: fcfs, paper, priority-iteration, qllm-layer, qllm-expert, or qllm-target, which "
        "is qllm-expert with 400 ms a token as its target. It may be given several times; fcfs is always among them.",
    ] = None
    set: Annotated[
        list[str] | None,
        Setting(metavar="NAME=NUMBER", panel=_SET_UPS),
        "Sets a number of the scheduler's core in all set-ups, under its name in the code, with times in seconds: "
        "be_chunk_tokens=512, min_share=0.1 for --be-min-share, preemption_quantum_s=0.01 for --preemption-quantum-ms "
        "10. A name that is unknown is answered with all names. It may be given several times.",
    ] = None
    cost_table: Annotated[
        str,
        Setting(metavar="NAME|FILE", panel=_SET_UPS),
        "Names the table that says how long the worker's work takes: a JSON file, or one that comes with QLLM, which "
        "are a100-mixtral-8x7b, h200-mixtral-8x7b, zen3-mini-mixtral, zen5-mini-mixtral and zero (no time at all).",
    ] = A100
    slo_s: Annotated[
        float,
        Setting(0.001, panel=_SET_UPS),
        "Sets within how many seconds the first token of a latency-sensitive request should come.",
    ] = 3.0
    processes: Annotated[
        int,
        Setting(1, 256, panel=_SET_UPS),
        "Runs so many simulations at a time.",
    ] = os.cpu_count() or 1

    def points(self, traffic: Traffic) -> list[Point]:
        """Returns what to simulate; raises BenchError for what cannot be."""
        axis = self.sweep or (Axis.RATE if isinstance(traffic, Mix) else None)
        if axis is None and self.values is not None:
            raise BenchError("--values: allowed with --sweep only")
        values = parse_values(self.values) if self.values is not None else axis.values if axis else ()
        return points(axis, values, traffic, apply_settings(choose_set_ups(self.set_up or ()), self.set or ()))

    def read_cost_table(self) -> object:
        """Returns the file's content, or the name, which the simulator knows or refuses."""
        path = Path(self.cost_table)
        if not path.is_file():
            return self.cost_table
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise BenchError(f"--cost-table: {path}: {error}") from None


@with_settings
def simulate(experiment: ExperimentOptions, traffic: TrafficOptions, results: ResultOptions) -> None:
    """Simulates the scheduler on a machine that is not here: an hour of traffic takes seconds.

    Runs the scheduler's core as it serves, on a clock of its own, with a worker that takes the time which --cost-table
    says. By default it repeats the experiment of arXiv 2503.09304 (Mixtral 8x7B on an A100, 20 % latency-sensitive) and
    prints that paper's claims beside what the simulation came to. All set-ups (a policy, where it may stop running
    work, and settings) meet the same requests at the same times. Moving caches and talking to the worker take no time
    here; experts are chosen evenly.
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
        job_of(set_up, cost_table, rows)
        for point in planned
        for rows in [await asyncio.to_thread(point.traffic.rows)]
        for set_up in point.set_ups
    ]
    console = Console(stderr=True)
    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(jobs))
        found = iter(
            await simulate_all(jobs, slo_s=slo_s, num_processes=num_processes, on_done=lambda: progress.advance(task))
        )
    return [PointResult(point.value, {set_up.label: next(found) for set_up in point.set_ups}) for point in planned]


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
                        set_up.label: {"setup": asdict(set_up), **point.results[set_up.label].to_json()}
                        for set_up in plan.set_ups
                    },
                }
                for point, plan in zip(sweep, planned, strict=True)
            ],
        }
    )
