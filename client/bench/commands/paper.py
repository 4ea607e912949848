"""`qllm-client bench paper`: the paper's experiment on the machine at hand, at several rates under several set-ups.

A service is started once for each set-up, with random weights made on its device, and meets the identical requests at
every rate: Poisson arrivals, ShareGPT-like lengths, a fifth latency-sensitive.

Source: arXiv 2503.09304, evaluation.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from qllm.client.bench.commands.measure import provenance_of
from qllm.client.bench.commands.paper_results import MeasuredResult, own_grids, sweep_of, warnings_of
from qllm.client.bench.console import complain, complaining
from qllm.client.bench.load.grpc_target import GrpcTarget
from qllm.client.bench.load.prompts import PromptForm, Prompts
from qllm.client.bench.load.run import Plan, Run, run_plan, unless
from qllm.client.bench.load.target import Target
from qllm.client.bench.load.trace import Trace, TraceRow
from qllm.client.bench.load.workload import BE, LS, Replay, Workload
from qllm.client.bench.options.target import ResultOptions, ServiceArguments
from qllm.client.bench.report.claims import claims_grid
from qllm.client.bench.report.progress import ProgressBar
from qllm.client.bench.report.show import Report, check_figures_can_be_drawn
from qllm.client.bench.report.simulate_tables import result_grids
from qllm.client.bench.results.result_file import Provenance, dump
from qllm.client.bench.results.summary import Objective
from qllm.client.bench.service.geometries import Geometry, write_geometry
from qllm.client.bench.service.interrupts import Interrupts, run_interruptibly
from qllm.client.bench.service.service import ServiceOptions, running_service
from qllm.client.bench.set_ups import SET_UPS, SetUpName
from qllm.client.bench.simulation.sweep import Axis, PointResult, parse_values
from qllm.client.bench.simulation.traffic import Mix
from qllm.client.messages import RequestClass
from qllm.options import with_settings
from qllm.settings import Setting
from rich.console import Console

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = "qllm-bench-paper/1"
EXAMPLES = """
[bold]Examples[/bold]

  qllm-client bench paper --geometry mixtral-8x7b --worker-arg=--device=cuda --json paper.json --png paper.png

  qllm-client bench paper --geometry mixtral-8x7b --worker-arg=--quantization=bnb-4bit --rates 2,8 --set-up qllm-expert

  qllm-client bench paper --geometry tiny --rates 4,16 --seconds 5      (on a laptop)
"""
_COMPARED = (SetUpName.FCFS, SetUpName.PRIORITY, SetUpName.PAPER, SetUpName.EXPERT)
_MAX_IN_FLIGHT = 4096


@dataclass(frozen=True, slots=True)
class PaperOptions:
    """What is run."""

    geometry: Annotated[
        Geometry | None,
        Setting(),
        "Runs a model of this shape, with random weights that are made on the device.",
    ] = None
    model: Annotated[
        str | None,
        Setting(metavar="DIR"),
        "Runs a model of your own, instead of one of --geometry.",
    ] = None
    rates: Annotated[
        str,
        Setting(metavar="A,B,..."),
        "Lists how many requests of both classes arrive in a second, from one measurement to the next.",
    ] = "1,2,4,8"
    set_up: Annotated[
        list[SetUpName] | None,
        Setting(unset="all"),
        "Chooses a set-up to run. It may be given several times; fcfs is always among them.",
    ] = None
    ls_share: Annotated[float, Setting(0, 1), "Sets which share of the requests is latency-sensitive."] = 0.2
    max_output_tokens: Annotated[int, Setting(4, 8192), "Cuts outputs at so many tokens."] = 100
    max_prompt_tokens: Annotated[int, Setting(4, 8192), "Cuts prompts at so many tokens."] = 2048
    slo_s: Annotated[
        float,
        Setting(0.001),
        "Sets within how many seconds the first token of a latency-sensitive request should come.",
    ] = 3.0
    seconds: Annotated[
        float,
        Setting(0.5, is_finite=True),
        "Sets for how many seconds is measured at each rate.",
    ] = 20.0
    warm_up: Annotated[
        float,
        Setting(0, is_finite=True),
        "Sets for how many seconds the load runs before the measurement at each rate.",
    ] = 3.0
    drain: Annotated[
        float,
        Setting(0, is_finite=True),
        "Limits how many seconds the measured requests have to end at each rate.",
    ] = 15.0
    idle_requests: Annotated[
        int,
        Setting(0),
        "Sends so many requests, one after another, to the idle service first, to learn how "
        "long its decode iteration takes.",
    ] = 4
    seed: Annotated[int, Setting(), "Fixes the random times of arrivals, classes and lengths."] = 0

    @property
    def set_ups(self) -> list[SetUpName]:
        """What is compared; the baseline is always among it."""
        return [one for one in _COMPARED if one in (self.set_up or _COMPARED) or one is SetUpName.FCFS]

    def traffic(self, rate: float) -> Mix:
        """What arrives at one rate."""
        return Mix(
            rate, self.warm_up + self.seconds + self.drain, self.ls_share, self.max_output_tokens, None, self.seed
        )

    def plan(self, rate: float, num_idle: int = 0) -> Plan:
        """What is done at one rate, after so many requests on the idle service.

        No prompt of one rate begins like one of another: a service that meets all of them finds none in its cache.
        """
        return Plan(
            workload=_workload(self.traffic(rate), self.max_prompt_tokens),
            prompts=Prompts(PromptForm.TOKENS, vocab_size=0, seed=f"{self.seed} at {rate:g}/s"),
            vocab_size=None,
            num_idle=num_idle,
            warm_up_s=self.warm_up,
            seconds=self.seconds,
            drain_s=self.drain,
            max_in_flight=_MAX_IN_FLIGHT,
        )

    @contextmanager
    def service(self, arguments: ServiceArguments) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The model's directory, and the worker's options.

        Raises:
            typer.BadParameter: Not exactly one model is named.
        """
        if (self.model is None) == (self.geometry is None):
            raise typer.BadParameter("name one of both", param_hint="--geometry or --model")
        if self.geometry is None:
            yield self.model or "", arguments.worker
            return
        with tempfile.TemporaryDirectory(prefix="qllm-geometry-") as directory:
            write_geometry(self.geometry, Path(directory))
            yield directory, ("--load-format", "dummy", *arguments.worker)


@with_settings
def paper(options: PaperOptions, service: ServiceArguments, results: ResultOptions) -> None:
    """Runs the paper's experiment on this machine: LS waits, turnarounds and throughput by rate, beside its claims.

    All set-ups meet the same requests at the same times. Requests that have not ended when the wait for them is over
    count with the time they had waited, as a lower bound. A set-up takes its start and (warm-up + seconds + drain) for
    each rate: choose --rates and --set-up so that it fits the time there is.
    """
    results.check()
    with complaining():
        check_figures_can_be_drawn(results)
        rates = parse_values(options.rates, "--rates")
        with options.service(service) as (model, worker):
            experiment = _Experiment(options, model, rates, replace(service, worker_arg=list(worker)))

            async def command(interrupts: Interrupts) -> dict[SetUpName, list[Run]]:
                with ProgressBar(Console(stderr=True)) as bar:
                    return await experiment.run(bar, interrupts)

            runs, exit_code = run_interruptibly(command)
        sweep = sweep_of(rates, runs, options.slo_s)
        if not sweep:
            complain("interrupted before every set-up had been measured at one rate; nothing to compare")
            raise typer.Exit(exit_code)
        _report(options, sweep, provenance_of(asdict(options) | asdict(service))).show(results, results.json_file)
        raise typer.Exit(exit_code)


@dataclass(frozen=True, slots=True)
class _Experiment:
    """One service after another, each at every rate."""

    options: PaperOptions
    model: str
    rates: Sequence[float]
    service: ServiceArguments

    async def run(self, bar: ProgressBar, interrupts: Interrupts) -> dict[SetUpName, list[Run]]:
        """Returns what came of each set-up, rate by rate, as far as it got."""
        runs: dict[SetUpName, list[Run]] = {}
        for set_up in self.options.set_ups:
            with interrupts.keeping_results():
                async with AsyncExitStack() as stack:
                    runs[set_up] = await self._run_rates(set_up, stack, bar, interrupts)
            if interrupts.stop.is_set():
                break
        return runs

    async def _run_rates(
        self, set_up: SetUpName, stack: AsyncExitStack, bar: ProgressBar, interrupts: Interrupts
    ) -> list[Run]:
        bar.entitle(str(set_up))
        bar.begin("starting the service")
        options = ServiceOptions(self.model, (*SET_UPS[set_up].options, *self.service.scheduler), self.service.worker)
        address = await unless(interrupts.stop, stack.enter_async_context(running_service(options)))
        if address is None:
            return []
        return await run_rates(
            GrpcTarget(address, ignore_eos=True), self.options, self.rates, str(set_up), bar, interrupts
        )


async def run_rates(
    target: Target, options: PaperOptions, rates: Sequence[float], label: str, bar: ProgressBar, interrupts: Interrupts
) -> list[Run]:
    """Runs the experiment at each rate on a server, idle requests first; returns what came of each so far."""
    runs: list[Run] = []
    try:
        for rate in rates:
            bar.entitle(f"{label} at {rate:g}/s")
            plan = options.plan(rate, 0 if runs else options.idle_requests)
            run = await run_plan(target, plan, bar, interrupts.stop)
            if run is None:
                break
            runs.append(run)
    finally:
        await target.close()
    return runs


def _workload(traffic: Mix, max_prompt_tokens: int) -> Workload:
    rows: dict[RequestClass, list[TraceRow]] = {LS: [], BE: []}
    for at_s, name, num_prompt_tokens, num_output_tokens in traffic.rows():
        rows[LS if name == "ls" else BE].append(TraceRow(at_s, num_prompt_tokens, num_output_tokens))
    period_s = traffic.seconds
    return {name: Replay(Trace(tuple(own), period_s), 1.0, max_prompt_tokens) for name, own in rows.items() if own}


def _report(options: PaperOptions, sweep: Sequence[PointResult[MeasuredResult]], provenance: Provenance) -> Report:
    what = options.geometry or options.model
    title = f"MEASURED: {what}, {options.traffic(1).describe(Axis.RATE)}"
    claims = claims_grid(sweep, options.slo_s, "MEASURED")

    def draw() -> "Figure":
        from qllm.client.bench.report.simulate_figure import sweep_figure

        return sweep_figure(Axis.RATE, sweep, options.slo_s, title)

    return Report(
        title="The paper's experiment",
        lead=title,
        grids=[
            *result_grids(Axis.RATE, sweep, Objective(ttft_ms=options.slo_s * 1e3), "MEASURED"),
            *own_grids(sweep),
            *([claims] if claims else []),
        ],
        warnings=list(warnings_of(sweep)),
        draw=draw,
        provenances=[provenance],
        json=dump(
            {
                "schema": SCHEMA,
                "provenance": asdict(provenance),
                "points": [
                    {"rate": point.value, "results": {label: asdict(one) for label, one in point.results.items()}}
                    for point in sweep
                ],
            }
        ),
    )
