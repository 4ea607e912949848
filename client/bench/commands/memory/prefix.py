"""`qllm-client bench prefix`: what a server makes of requests that begin alike."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from qllm.client.bench.commands.measure import grpc_address, label_of, provenance_of
from qllm.client.bench.commands.memory.prefix_run import APART, COLD, Measuring, PrefixRun
from qllm.client.bench.console import complain, complaining
from qllm.client.bench.options.prefix import PrefixOptions, PrefixPart
from qllm.client.bench.options.target import JsonOptions, ServiceArguments, TargetOptions
from qllm.client.bench.report.grid import Grid
from qllm.client.bench.report.progress import ProgressBar
from qllm.client.bench.report.show import show_tables
from qllm.client.bench.report.turns_tables import ratios_grid, turns_grid
from qllm.client.bench.results.prefix import LOAD_FIGURES, REPEAT_FIGURES
from qllm.client.bench.results.result_file import dump
from qllm.client.bench.results.turns import Figure
from qllm.client.bench.service.interrupts import Interrupts, run_interruptibly
from qllm.options import with_settings
from rich.console import Console

EXAMPLES = """
[bold]Examples[/bold]

  qllm-client bench prefix --serve bench-models/mini-mixtral --json prefix.json

  qllm-client bench prefix --serve DIR --part repeat --prefix-tokens 1000 --pairs 50

  qllm-client bench prefix --http http://127.0.0.1:8203 --priority-field none --part turns --vocab-size 8000
"""
SCHEMA = "qllm-bench-prefix/1"
_ALL = list(PrefixPart)
PARTS: dict[PrefixPart, tuple[str, Sequence[Figure], str]] = {
    PrefixPart.REPEAT: ("A prefix that was asked before", REPEAT_FIGURES, COLD),
    PrefixPart.TURNS: ("Conversations", LOAD_FIGURES, APART),
    PrefixPart.SYSTEM: ("One system prompt for all", LOAD_FIGURES, APART),
}
"""Of each part: its title, its figures, and the way that ratios are over."""


@with_settings
def prefix(
    target: TargetOptions,
    service: ServiceArguments,
    options: PrefixOptions,
    results: JsonOptions,
    part: Annotated[
        list[PrefixPart],
        typer.Option(
            rich_help_panel="What is asked",
            help="Chooses what is measured. repeat: a prefix cold and once more, in pairs. turns: conversations whose "
            "turns repeat all before them. system: requests that begin with one system prompt. It may be given "
            "several times.",
        ),
    ] = _ALL,
    label: Annotated[
        str | None, typer.Option(rich_help_panel="Results", help="Sets what the server is called in the results.")
    ] = None,
) -> None:
    """Tells what a server saves of requests that begin alike, with token ids as prompts.

    Prefixes are random, and none is asked in two rounds. Where the server says how many tokens it found in its cache
    (usage.prompt_tokens_details.cached_tokens), the share of them is told too. The loads turns and system are measured
    in turns with sharing and without, which needs cache_salt; leave that out with --no-apart. Errors are standard
    errors over pairs or rounds. It takes about 3 minutes on a small model.
    """
    target.check()
    results.check()
    with complaining():
        provenance = provenance_of(asdict(target) | asdict(service) | asdict(options))

        async def command(interrupts: Interrupts) -> PrefixRun:
            with ProgressBar(Console(stderr=True)) as bar:
                async with grpc_address(target, service, bar) as address:
                    server = target.target(address)
                    try:
                        with interrupts.keeping_results():
                            return await Measuring(server, options, bar, interrupts.stop).run(list(dict.fromkeys(part)))
                    finally:
                        await server.close()

        run, exit_code = run_interruptibly(command)
        if not run.turns:
            complain("interrupted before anything was measured")
            raise typer.Exit(exit_code)
        content = {
            "schema": SCHEMA,
            "label": label or label_of(run.facts),
            "provenance": asdict(provenance),
            "target": asdict(run.facts),
            "parts": {str(one): turns.to_json(*PARTS[one][1:]) for one, turns in run.turns.items()},
        }
        show_tables(_grids(run), [], results.json_file, dump(content))
        raise typer.Exit(exit_code)


def _grids(run: PrefixRun) -> list[Grid]:
    grids: list[Grid] = []
    for part, turns in run.turns.items():
        title, figures, base = PARTS[part]
        grids.append(turns_grid(title, turns, figures))
        ratios = ratios_grid(f"{title}: ratios", turns, figures, base)
        grids += [ratios] if ratios is not None else []
    return grids
