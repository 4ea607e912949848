"""`qllm-client bench pressure`: more best-effort work than memory holds, and what becomes of everybody's requests."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from qllm.client.bench.commands.measure import provenance_of
from qllm.client.bench.commands.memory.in_turns import InTurns
from qllm.client.bench.commands.memory.pressure_run import PressureRun, run_pressure
from qllm.client.bench.console import EXIT_FAILED, complaining
from qllm.client.bench.load.grpc_target import GrpcTarget
from qllm.client.bench.options.pressure import PressureOptions
from qllm.client.bench.options.qllm import QllmOptions
from qllm.client.bench.options.target import JsonOptions, ServiceArguments
from qllm.client.bench.report.progress import ProgressBar
from qllm.client.bench.report.show import show_tables
from qllm.client.bench.report.turns_tables import ratios_grid, turns_grid
from qllm.client.bench.results.pressure import FIGURES, Outcome, figures_of
from qllm.client.bench.results.result_file import dump
from qllm.client.bench.results.turns import Figures, Turns
from qllm.client.bench.set_ups import VICTIM_SET_UPS, VictimSetUp
from qllm.options import with_settings

EXAMPLES = """
[bold]Examples[/bold]

  qllm-client bench pressure --serve bench-models/mini-mixtral --worker-arg=--num-blocks=512 --json pressure.json

  qllm-client bench pressure --serve DIR --set-up offload --set-up recompute --rounds 5 --seconds 120

  qllm-client bench pressure --serve demo/model --worker-arg=--num-blocks=64 --seconds 10 --prompts 4 \\
    --be-prompt-tokens 100 --be-max-tokens 20 --ls-prompt-tokens 20 --ls-max-tokens 4 --idle-requests 10
"""
SCHEMA = "qllm-bench-pressure/1"
_ALONE = [VictimSetUp.OFFLOAD]


@with_settings
def pressure(
    server: QllmOptions,
    service: ServiceArguments,
    options: PressureOptions,
    results: JsonOptions,
    set_up: Annotated[
        list[VictimSetUp],
        typer.Option(
            rich_help_panel="Starting a service",
            help="Chooses what becomes of caches that give way: offload moves them to host memory, recompute drops "
            "them (--host-kv-gib 0), as other servers do. Given several times, they are measured in turns.",
        ),
    ] = _ALONE,
    rounds: Annotated[
        int, typer.Option(min=1, rich_help_panel="Measuring", help="Sets how often each set-up is measured, in turns.")
    ] = 1,
) -> None:
    """Wants many times the memory that there is, and shows that nobody's answer suffers.

    So many best-effort requests are under way at a time that they want ten times the blocks that the cache has (see
    --demand), and latency-sensitive requests come at random times beside them. Every answer is compared, token by
    token, with the one that its prompt had alone before. Each request has a salt of its own, so that the prefix cache
    makes none of them cheaper. Then it tells latencies and throughput, what was moved, what was computed again, and
    whether any block is still held when nothing runs any more. The exit code is 1 if an answer differs or is missing,
    or if a block is held. A run takes --prompts times as long as two requests, then --seconds, and then as long as the
    last answers take. Standard errors of ratios between set-ups are over --rounds.
    """
    variants = [VICTIM_SET_UPS[name] for name in dict.fromkeys(set_up)]
    server.check(len(variants))
    results.check()
    with complaining():
        provenance = provenance_of(asdict(server) | asdict(service) | asdict(options) | {"rounds": rounds})

        async def measure(target: GrpcTarget, bar: ProgressBar, stop: asyncio.Event) -> PressureRun | None:
            return await run_pressure(target, options, bar, stop)

        runs, exit_code = InTurns(server, service, variants, rounds).run(measure)
        turns = Turns()
        for label, run in runs:
            turns.add(label, _figures(run, options))
        content = {"schema": SCHEMA, "provenance": asdict(provenance), "details": [_details(*each) for each in runs]}
        grids = [turns_grid("Under pressure", turns, FIGURES)]
        ratios = ratios_grid("Ratios, by round", turns, FIGURES, VictimSetUp.RECOMPUTE)
        warnings = [f"{label}: {warning}" for label, run in runs for warning in _warnings(run)]
        json = dump(content | turns.to_json(FIGURES, VictimSetUp.RECOMPUTE))
        show_tables([*grids, *([ratios] if ratios else [])], warnings, results.json_file, json)
        raise typer.Exit(exit_code or (EXIT_FAILED if warnings else 0))


def _figures(run: PressureRun, options: PressureOptions) -> Figures:
    blocks, memory = run.end.num_blocks, run.end.memory
    outcome = Outcome(
        demand=run.num_be_clients * options.num_blocks_each(run.facts) / blocks if blocks else 0.0,
        num_be_clients=run.num_be_clients,
        num_asked=run.num_asked,
        num_done=run.num_done,
        num_compared=run.comparing.num_compared,
        num_different=run.comparing.num_different,
        num_work_tokens=run.num_work_tokens,
        moved=run.moved,
        block_bytes=memory["total_bytes"] / blocks if blocks else 0.0,
        num_leaked_blocks=run.end.num_held_blocks,
        num_problems=len(run.end.problems or ()),
    )
    return figures_of(run.measurement, outcome)


def _warnings(run: PressureRun) -> Sequence[str]:
    """Returns what must not be, a line each."""
    comparing, problems = run.comparing, [f"the books: {problem}" for problem in run.end.problems or ()]
    if comparing.num_different:
        where = f"the first differs at token {comparing.earliest_difference}"
        problems.append(f"{comparing.num_different} of {comparing.num_compared} answers have other tokens; {where}")
    if run.num_done < run.num_asked:
        problems.append(f"{run.num_asked - run.num_done} of {run.num_asked} requests have no whole answer")
    problems += [f"{kind}: {message}" for kind, message in run.measurement.messages.items()]
    if run.end.num_held_blocks:
        problems.append(f"{run.end.num_held_blocks} blocks are held though nothing runs any more")
    return [*problems, *(["ended early"] if run.is_interrupted else [])]


def _details(label: str, run: PressureRun) -> dict[str, object]:
    return {
        "label": label,
        "target": asdict(run.facts),
        "moved": run.moved,
        "books": asdict(run.end),
        "is_interrupted": run.is_interrupted,
        "warnings": list(_warnings(run)),
    }
