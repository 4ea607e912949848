"""`qllm-client bench agents`: programs of agents whose caches are kept while tools run, or are not."""

import asyncio
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import count
from typing import Annotated

import typer
from qllm.client.bench.commands.measure import provenance_of
from qllm.client.bench.commands.memory.in_turns import InTurns
from qllm.client.bench.console import EXIT_FAILED, complaining
from qllm.client.bench.errors import RequestFailed, TargetFailed
from qllm.client.bench.load.grpc_target import GrpcTarget
from qllm.client.bench.load.load import first_of
from qllm.client.bench.load.memory.agent_load import AgentLoad
from qllm.client.bench.load.memory.programs import Program
from qllm.client.bench.load.prompts import DEFAULT_VOCAB_SIZE
from qllm.client.bench.load.run import unless
from qllm.client.bench.load.target import TargetFacts
from qllm.client.bench.options.agents import AgentOptions
from qllm.client.bench.options.qllm import QllmOptions
from qllm.client.bench.options.target import JsonOptions, ServiceArguments
from qllm.client.bench.report.progress import ProgressBar
from qllm.client.bench.report.show import show_tables
from qllm.client.bench.report.turns_tables import ratios_grid, turns_grid
from qllm.client.bench.results.agents import FIGURES, figures_of
from qllm.client.bench.results.result_file import dump
from qllm.client.bench.results.turns import Figures, Turns
from qllm.client.bench.set_ups import SessionSetUp, session_variant
from qllm.options import with_settings

EXAMPLES = """
[bold]Examples[/bold]

  qllm-client bench agents --serve bench-models/mini-mixtral --worker-arg=--num-blocks=256 --json agents.json

  qllm-client bench agents --serve DIR --set-up without --set-up rule --rounds 5 --tool search=2:1 --request-class be

  qllm-client bench agents --serve demo/model --worker-arg=--num-blocks=64 --programs 8 --learn 2 --rounds 1 \\
    --first-tokens 60 --tool-tokens 20 --output-tokens 8 --tool t=0.3:0.5 --be-prompt-tokens 100 --be-max-tokens 16
"""
SCHEMA = "qllm-bench-agents/1"
_ALL = list(SessionSetUp)


@dataclass(frozen=True, slots=True)
class AgentRun:
    """What one service came to."""

    facts: TargetFacts
    figures: Figures
    failures: tuple[str, ...]


@with_settings
def agents(
    server: QllmOptions,
    service: ServiceArguments,
    options: AgentOptions,
    results: JsonOptions,
    set_up: Annotated[
        list[SessionSetUp],
        typer.Option(
            rich_help_panel="Starting a service",
            help="Chooses for how long the cache of a program is kept while a tool runs. without: not at all. fixed: "
            "as long as --fixed-ttl-s says. rule: as long as is worth it by what is known of the tool. Given several "
            "times, they are measured in turns; with --grpc one is only the name of what runs there.",
        ),
    ] = _ALL,
    fixed_ttl_s: Annotated[
        float, typer.Option(min=0, rich_help_panel="Starting a service", help="Sets the seconds of the set-up fixed.")
    ] = 5.0,
) -> None:
    """Runs programs of agents, and tells how long their turns wait and when they are complete.

    A program is a session: its turns repeat all that was said before, and between two of them a tool runs for a random
    time. A turn's delay is the time to its first token; a job is complete with its last token, tools included.
    Best-effort clients beside it keep the memory full. All set-ups of a round run the same programs. Standard errors
    are over --rounds. The exit code is 1 if a program failed. A run takes about --programs over --rate seconds, and as
    long as the last programs take.
    """
    variants = [session_variant(name, fixed_ttl_s) for name in dict.fromkeys(set_up)]
    server.check(len(variants))
    results.check()
    options.check()
    with complaining():
        provenance = provenance_of(asdict(server) | asdict(service) | asdict(options) | {"fixed_ttl_s": fixed_ttl_s})
        numbers = count()

        async def measure(target: GrpcTarget, bar: ProgressBar, stop: asyncio.Event) -> AgentRun | None:
            bar.begin(f"{options.programs} programs")
            return await unless(stop, _run(target, options, next(numbers) // len(variants)))

        runs, exit_code = InTurns(server, service, variants, options.rounds).run(measure)
        turns = Turns()
        for label, run in runs:
            turns.add(label, run.figures)
        ratios = ratios_grid("Ratios, by round", turns, FIGURES, SessionSetUp.WITHOUT)
        grids = [turns_grid("Programs of agents", turns, FIGURES), *([ratios] if ratios is not None else [])]
        warnings = [f"{label}: {failure}" for label, run in runs for failure in run.failures]
        content = {"schema": SCHEMA, "provenance": asdict(provenance), "target": asdict(runs[0][1].facts)}
        json = dump(content | turns.to_json(FIGURES, SessionSetUp.WITHOUT))
        show_tables(grids, warnings, results.json_file, json)
        raise typer.Exit(exit_code or (EXIT_FAILED if warnings else 0))


async def _run(target: GrpcTarget, options: AgentOptions, round_number: int) -> AgentRun:
    facts = await target.prepare()
    programs = options.agents(facts, round_number)
    load = AgentLoad(
        target, options.request_class, facts.vocab_size or DEFAULT_VOCAB_SIZE, programs.seed, f"round-{round_number}"
    )
    before, began_s = await target.books(), asyncio.get_running_loop().time()
    await _run_programs(load, programs.programs(options.programs), options)
    seconds = asyncio.get_running_loop().time() - began_s
    after = await target.books()
    capacity = (facts.num_blocks or 0) * (facts.block_size or 0)
    figures = {
        **figures_of(load.records[options.learn :], after.since(before)),
        "be_tokens_per_s": load.num_background_tokens / seconds if options.be_clients else None,
        "demand_x": load.most_tokens / capacity if capacity else None,
    }
    failures = {record.failure: None for record in load.records if record.failure is not None}
    return AgentRun(facts, figures, tuple(failures))


async def _run_programs(load: AgentLoad, programs: Iterable[Program], options: AgentOptions) -> None:
    """Runs the programs to their ends, best-effort clients beside them.

    Raises:
        TargetFailed: The server failed a request of such a client; the programs are given up at once.
    """
    try:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(load.run_background(options.be_clients, options.background))
            await load.run(programs)
            asking.cancel()
    except ExceptionGroup as failures:
        if (failed := failures.subgroup(RequestFailed)) is None:
            raise
        raise TargetFailed(f"the server fails a best-effort request: {first_of(failed)}") from None
