"""`qllm-client bench simulate`: the scheduler core over minutes or hours of traffic in virtual time, and its results.

Every number is simulated: the core is the one that serves, the worker takes the times of a cost table.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import typer
from qllm.client.bench.commands.measure import provenance_of
from qllm.client.bench.commands.simulate_options import ClientOptions, ExperimentOptions, TrafficOptions
from qllm.client.bench.console import complaining
from qllm.client.bench.options.target import ResultOptions
from qllm.client.bench.report.claims import claims_grid
from qllm.client.bench.report.grid import Grid
from qllm.client.bench.report.show import Report, check_figures_can_be_drawn
from qllm.client.bench.report.simulate_tables import cost_grid, result_grids, stops_grid
from qllm.client.bench.results.result_file import Provenance, dump
from qllm.client.bench.service.interrupts import Interrupts, run_interruptibly
from qllm.client.bench.simulation.simulator import Planned, SimulatedResult, asked_of, job_of, simulate_all
from qllm.client.bench.simulation.sweep import Axis, Point, PointResult
from qllm.client.bench.simulation.traffic import Mix, Traffic
from qllm.options import with_settings
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = "qllm-bench-simulation/1"
EXAMPLES = """
[bold]Examples[/bold]

  qllm-client bench simulate --png simulated.png            (the paper's set-up: 1 to 8 requests a second)

  qllm-client bench simulate --sweep ls-share --rate 2 --html shares.html

  qllm-client bench simulate --trace conv.csv --time-scale 4 --ls-share 0.2 --set-up qllm-expert

  qllm-client bench simulate --set-up qllm-expert --set min_share=0.2 --set be_chunk_tokens=512

  qllm-client bench simulate --be-clients 8 --sweep ls-tpot --cost-table h200-mixtral-8x7b --png promise.png
"""


@with_settings
def simulate(
    experiment: ExperimentOptions, traffic: TrafficOptions, clients: ClientOptions, results: ResultOptions
) -> None:
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
        source = traffic.traffic(clients)
        planned = experiment.points(source)
        tables = experiment.cost_tables()
        provenance = provenance_of(asdict(experiment) | asdict(traffic) | asdict(clients))

        async def command(_: Interrupts) -> dict[str, list[PointResult[SimulatedResult]]]:
            return await _run(experiment, planned, tables)

        sweeps, _ = run_interruptibly(command)
        report = _Findings(experiment, source, planned, sweeps, provenance).report()
        typer.echo(report.lead)
        report.show(results, results.json_file)


async def _run(
    experiment: ExperimentOptions, planned: Sequence[Point], tables: Mapping[str, object]
) -> dict[str, list[PointResult[SimulatedResult]]]:
    """Returns what came of each table."""
    asked = [await asyncio.to_thread(asked_of, point.traffic) for point in planned]
    jobs = [
        Planned(job_of(set_up, table, of_point), experiment.objective_at(point))
        for table in tables.values()
        for point, of_point in zip(planned, asked, strict=True)
        for set_up in point.set_ups
    ]
    console = Console(stderr=True)
    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(jobs))
        found = iter(
            await simulate_all(jobs, num_processes=experiment.processes, on_done=lambda: progress.advance(task))
        )
    return {
        name: [PointResult(point.value, {set_up.label: next(found) for set_up in point.set_ups}) for point in planned]
        for name in tables
    }


@dataclass(frozen=True, slots=True)
class _Findings:
    """What was simulated and what came of it on each machine, by the names of the tables."""

    experiment: ExperimentOptions
    traffic: Traffic
    planned: Sequence[Point]
    sweeps: Mapping[str, Sequence[PointResult[SimulatedResult]]]
    provenance: Provenance

    @property
    def axis(self) -> Axis | None:
        return self.experiment.axis(self.traffic)

    @property
    def title(self) -> str:
        return f"SIMULATED on {', '.join(self.sweeps)}: {self.traffic.describe(self.axis)}"

    def report(self) -> Report:
        every = [point for sweep in self.sweeps.values() for point in sweep]
        return Report(
            title="SIMULATED: the scheduler in virtual time",
            lead=self.title,
            grids=[*(grid for name in self.sweeps for grid in self._grids(name)), cost_grid(every)],
            warnings=[],
            draw=self._draw,
            provenances=[self.provenance],
            json=self._to_json(),
        )

    def _grids(self, table: str) -> list[Grid]:
        axis, sweep, objective = self.axis, self.sweeps[table], self.experiment.objective
        how = "SIMULATED" if len(self.sweeps) == 1 else f"SIMULATED on {table}"
        claims = claims_grid(sweep, self.experiment.slo_s, how) if self._repeats_the_paper else None
        return [*result_grids(axis, sweep, objective, how), stops_grid(axis, sweep, how), *([claims] if claims else [])]

    @property
    def _repeats_the_paper(self) -> bool:
        return self.axis is Axis.RATE and isinstance(self.traffic, Mix)

    def _draw(self) -> "Figure":
        from qllm.client.bench.report.promise_figure import promise_figure
        from qllm.client.bench.report.simulate_figure import point_figure, sweep_figure

        axis, (sweep, *_) = self.axis, self.sweeps.values()
        if axis is Axis.LS_TPOT:
            return promise_figure(self.sweeps, self.title)
        return (
            sweep_figure(axis, sweep, self.experiment.slo_s, self.title) if axis else point_figure(sweep[0], self.title)
        )

    def _to_json(self) -> str:
        return dump(
            {
                "schema": SCHEMA,
                "is_simulated": True,
                "provenance": asdict(self.provenance),
                "points": [
                    {
                        "cost_table": table,
                        "value": point.value,
                        "traffic": plan.traffic.describe(),
                        "results": {
                            set_up.label: {"setup": asdict(set_up), **point.results[set_up.label].to_json()}
                            for set_up in plan.set_ups
                        },
                    }
                    for table, sweep in self.sweeps.items()
                    for point, plan in zip(sweep, self.planned, strict=True)
                ],
            }
        )
