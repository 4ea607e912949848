"""`qllm-client bench goodput`: the most best-effort work beside latency-sensitive requests that keep their targets.

Servers are searched one after another, each by `goodput_run`.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer
from qllm.client.bench.commands.goodput_run import search_server
from qllm.client.bench.commands.measure import grpc_address, provenance_of
from qllm.client.bench.console import EXIT_FAILED, complain, complaining
from qllm.client.bench.errors import BenchError
from qllm.client.bench.load.run import unless
from qllm.client.bench.options.goodput import GoodputOptions
from qllm.client.bench.options.target import ResultOptions, ServiceArguments, TargetOptions
from qllm.client.bench.report.goodput_tables import goodput_grids, warnings
from qllm.client.bench.report.progress import ProgressBar
from qllm.client.bench.report.show import Report, check_figures_can_be_drawn
from qllm.client.bench.results.goodput import ServerGoodput, to_json
from qllm.client.bench.results.result_file import Provenance, dump
from qllm.client.bench.service.interrupts import Interrupts, run_interruptibly
from qllm.client.bench.set_ups import SET_UPS, SetUpName
from qllm.options import with_settings
from rich.console import Console

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = """
[bold]Examples[/bold]

  qllm-client bench goodput --serve bench-models/mini-mixtral --json ours.json --png ours.png

  qllm-client bench goodput --serve DIR --set-up qllm-expert --set-up priority-iteration --set-up fcfs --html page.html

  qllm-client bench goodput --http http://127.0.0.1:8203 --priority-field priority --label vLLM --json vllm.json

  qllm-client bench compare ours.json vllm.json --png goodput.png

  qllm-client bench goodput --serve DIR --scheduler-arg=--ls-tpot-ms=20 --slo-tpot-ms 20 --ls-rate 2 --seconds 60
"""


@with_settings
def goodput(
    target: TargetOptions,
    service: ServiceArguments,
    options: GoodputOptions,
    results: ResultOptions,
    set_up: Annotated[
        list[SetUpName] | None,
        typer.Option(
            rich_help_panel="Starting a service",
            help="Starts the service of --serve under this set-up, as bench ablation --help explains it. Given several "
            "times, one after another is searched.",
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(rich_help_panel="Results", help="Sets what the server is called in comparisons.")
    ] = None,
) -> None:
    """Finds a server's goodput: the most best-effort work while latency-sensitive requests keep their targets.

    Latency-sensitive requests come at one rate all the time. The number of best-effort clients goes 0, 1, 2, 4, 8, ...
    until too few of those requests keep both targets, and then to the middle between the last number that held and the
    first that did not, until these are neighbours. Each number is measured in several windows, and in more while the
    answer is not sure (95 % interval of the share that keeps both). Goodput is the most best-effort tokens a second at
    a number that held, 0 if none did. Ctrl-C ends early and keeps what was found. A search takes about ten numbers
    times --max-windows times --seconds. Latency-sensitive requests meet each other too: where they fail alone, lower
    --ls-rate or --attainment.
    """
    target.check()
    results.check()
    options.check(chat=target.chat)
    servers = _servers(target, service, set_up or (), label)
    with complaining():
        check_figures_can_be_drawn(results)
        provenance = provenance_of(asdict(target) | asdict(service) | asdict(options))
        run = _Run(target, options, provenance)

        async def command(interrupts: Interrupts) -> list[ServerGoodput]:
            with ProgressBar(Console(stderr=True)) as bar:
                return await run.search_all(servers, bar, interrupts)

        found, exit_code = run_interruptibly(command)
        if not found:
            complain("interrupted before the first window was over; nothing was found")
            raise typer.Exit(exit_code)
        report_of_goodputs(found).show(results, results.json_file)
        raise typer.Exit(exit_code or (EXIT_FAILED if len(found) < len(servers) else 0))


def report_of_goodputs(servers: Sequence[ServerGoodput]) -> Report:
    """Returns what is shown of several searches."""

    def draw() -> "Figure":
        from qllm.client.bench.report.goodput_figure import goodput_figure

        return goodput_figure(servers)

    return Report(
        title="Goodput: best-effort work beside latency-sensitive requests that keep their targets",
        lead=", ".join(f"{server.label} ({server.target.model})" for server in servers),
        grids=goodput_grids(servers),
        warnings=[f"{server.label}: {warning}" for server in servers for warning in warnings(server)],
        draw=draw,
        provenances=list({server.provenance.command: server.provenance for server in servers}.values()),
        json=dump(to_json(servers)),
    )


@dataclass(frozen=True, slots=True)
class _Server:
    """One of the servers; without a label it is called what it says that it is."""

    service: ServiceArguments
    label: str | None


def _servers(
    target: TargetOptions, service: ServiceArguments, set_ups: Sequence[SetUpName], label: str | None
) -> list[_Server]:
    if not set_ups:
        return [_Server(service, label)]
    if target.serve is None:
        raise typer.BadParameter("it says how the service of --serve is started", param_hint="--set-up")
    if label is not None:
        raise typer.BadParameter("set-ups are called by their own names", param_hint="--label")
    return [
        _Server(replace(service, scheduler_arg=[*SET_UPS[name].options, *service.scheduler]), str(name))
        for name in dict.fromkeys(set_ups)
    ]


@dataclass(frozen=True, slots=True)
class _Run:
    """What is asked of each server."""

    target: TargetOptions
    options: GoodputOptions
    provenance: Provenance

    async def search_all(
        self, servers: Sequence[_Server], bar: ProgressBar, interrupts: Interrupts
    ) -> list[ServerGoodput]:
        """Returns what was found on each server, until a signal comes or one of them fails after others."""
        found: list[ServerGoodput] = []
        for server in servers:
            try:
                with interrupts.keeping_results():
                    one = await self._search_server(server, bar, interrupts.stop)
            except BenchError as failure:
                if not found:
                    raise
                complain(f"{server.label}: {failure}")
                return found
            found += [one] if one is not None else []
            if interrupts.stop.is_set():
                return found
        return found

    async def _search_server(self, server: _Server, bar: ProgressBar, stop: asyncio.Event) -> ServerGoodput | None:
        bar.entitle(server.label or "")
        async with AsyncExitStack() as stack:
            address = await unless(stop, stack.enter_async_context(grpc_address(self.target, server.service, bar)))
            if stop.is_set():
                return None
            target = self.target.target(address)
            stack.push_async_callback(target.close)
            return await search_server(
                target, self.options, self.provenance, bar, stop, label=server.label, chat=self.target.chat
            )
