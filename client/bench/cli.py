"""`qllm-client bench`: the sub-application that the bench commands register in."""

from pathlib import Path
from typing import Annotated

import typer
from qllm.client.bench.commands.ablation import ablate
from qllm.client.bench.commands.compare import compare
from qllm.client.bench.commands.goodput import EXAMPLES as GOODPUT_EXAMPLES
from qllm.client.bench.commands.goodput import goodput
from qllm.client.bench.commands.measure import measure
from qllm.client.bench.commands.memory.agents import EXAMPLES as AGENT_EXAMPLES
from qllm.client.bench.commands.memory.agents import agents
from qllm.client.bench.commands.memory.prefix import EXAMPLES as PREFIX_EXAMPLES
from qllm.client.bench.commands.memory.prefix import prefix
from qllm.client.bench.commands.memory.pressure import EXAMPLES as PRESSURE_EXAMPLES
from qllm.client.bench.commands.memory.pressure import pressure
from qllm.client.bench.commands.paper import EXAMPLES as PAPER_EXAMPLES
from qllm.client.bench.commands.paper import paper
from qllm.client.bench.commands.predictions import predictions
from qllm.client.bench.commands.simulate import EXAMPLES as SIMULATE_EXAMPLES
from qllm.client.bench.commands.simulate import simulate
from qllm.client.bench.commands.simulate_agents import EXAMPLES as SIMULATE_AGENTS_EXAMPLES
from qllm.client.bench.commands.simulate_agents import simulate_agents
from qllm.client.bench.commands.timeline import timeline
from qllm.client.bench.console import complaining
from qllm.client.bench.options.load import LoadOptions
from qllm.client.bench.options.target import FigureOptions, ResultOptions, ServiceArguments, TargetOptions
from qllm.client.bench.set_ups import SetUpName
from qllm.client.cli.access_options import with_access
from qllm.client.cli.session import is_on_command_line
from qllm.options import with_settings

EXAMPLES = """
[bold]Examples[/bold]

  qllm-client bench --grpc 127.0.0.1:50051 --ls-rate 0.7 --be-clients 8 --json ours.json --html ours.html

  qllm-client bench --http http://127.0.0.1:8203 --priority-field priority --label vllm --json vllm.json

  qllm-client bench compare ours.json vllm.json --png against-vllm.png

  qllm-client bench --serve demo/model --trace conv.csv --ls-share 0.2 --time-scale 20 --max-tokens-limit 64
"""

ABLATION_EXAMPLES = """
[bold]Examples[/bold]

  qllm-client bench ablation --model demo/model --seconds 10 --be-prompt-tokens 400 --be-max-tokens 48

  qllm-client bench ablation --model bench-models/mini-mixtral --rounds 3 --json ablation.json --png ablation.png
"""
_ALL = list(SetUpName)

app = typer.Typer(rich_markup_mode="rich")


@app.callback(invoke_without_command=True, no_args_is_help=True, epilog=EXAMPLES)
@with_access
@with_settings
def bench(
    context: typer.Context,
    target: TargetOptions,
    service: ServiceArguments,
    load: LoadOptions,
    results: ResultOptions,
    label: Annotated[
        str | None, typer.Option(rich_help_panel="Results", help="Sets what the result is called in comparisons.")
    ] = None,
    files: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--compare",
            metavar="A B",
            rich_help_panel="Results",
            help="Compares two results, as bench compare A B does, and measures nothing.",
        ),
    ] = None,
) -> None:
    """Measures a server under a mixed load of latency-sensitive and best-effort requests.

    First latency-sensitive requests go one by one to the idle server. Then the load begins, and a window of it is
    measured: times to the first token, turnarounds (times to the last token) and throughput. Loaded over idle says what
    the load did to latency-sensitive requests. Clients send their next request when the last one has ended. Requests at
    a rate or from a trace never wait for the server: their latencies count from when they should have been sent. Ctrl-C
    ends early and keeps what was measured.
    """
    if context.invoked_subcommand is not None:
        _refuse_options(context)
        return
    with complaining():
        if files is not None:
            compare(files, results)
        else:
            measure(target, service, load, results, label)


@app.command("compare", no_args_is_help=True)
@with_settings
def compare_command(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="A.json B.json ...", help="Results of bench or of an ablation, or of goodput."),
    ],
    results: FigureOptions,
) -> None:
    """Prints and draws several results side by side."""
    with complaining():
        compare(files, results)


@app.command("ablation", epilog=ABLATION_EXAMPLES, no_args_is_help=True)
@with_settings
def ablation_command(
    model: Annotated[str, typer.Option(metavar="DIR", help="Names the model: a directory or a hub id.")],
    service: ServiceArguments,
    load: LoadOptions,
    results: ResultOptions,
    set_up: Annotated[
        list[SetUpName], typer.Option(help="Chooses a set-up to measure. It may be given several times.")
    ] = _ALL,
    rounds: Annotated[int, typer.Option(min=1, help="Sets how often each set-up is measured, in turns.")] = 1,
) -> None:
    """Tells what each part of the scheduling buys: one load under five set-ups of a service, all with the same engine.

    A set-up is a policy and where it may stop running work. fcfs: first come, first served, iteration by iteration.
    priority-iteration: latency-sensitive requests first, but only between iterations. paper: the algorithm of arXiv
    2503.09304. qllm-layer and qllm-expert: the default policy, which may stop best-effort work before any layer, or
    before any expert.
    """
    with complaining():
        ablate(model, list(dict.fromkeys(set_up)), rounds, service, load, results)


app.command(epilog=GOODPUT_EXAMPLES, no_args_is_help=True)(with_access(goodput))
app.command(epilog=PRESSURE_EXAMPLES, no_args_is_help=True)(pressure)
app.command(epilog=PREFIX_EXAMPLES, no_args_is_help=True)(with_access(prefix))
app.command(epilog=AGENT_EXAMPLES, no_args_is_help=True)(agents)
app.command(epilog=PAPER_EXAMPLES, no_args_is_help=True)(paper)
app.command(epilog=SIMULATE_EXAMPLES)(simulate)
app.command(epilog=SIMULATE_AGENTS_EXAMPLES)(simulate_agents)
app.command(no_args_is_help=True)(timeline)
app.command(no_args_is_help=True)(predictions)


def _refuse_options(context: typer.Context) -> None:
    """Refuses options between `bench` and the command that follows it: they would be ignored."""
    given = [name for name in context.params if is_on_command_line(context, name)]
    if given:
        option = "--" + given[0].replace("_", "-")
        raise typer.BadParameter(f"options of {context.invoked_subcommand!r} stand after its name", param_hint=option)
