"""Runs the fault instruments for long: `python -m tests.faults matrix|kills|jobs|soak|overload`.

It exits with 1 if anything is wrong. Short runs of the same are tests. docs/guides/faults.md says how to read what
is printed.
"""

import asyncio
import json
import signal
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from tests.faults.harness.service import Settings
from tests.faults.runs import jobs as jobs_run
from tests.faults.runs import kills as kills_run
from tests.faults.runs import matrix as matrix_run
from tests.faults.runs import overload as overload_run
from tests.faults.runs import soak as soak_run
from tests.support.jobs.postgresql import why_no_postgresql


class Worker(StrEnum):
    """Who does the work."""

    SIMULATED = "simulated"
    DEMO = "demo"


app = typer.Typer(
    help="Starts the real service, does bad things to it, and says what became of every request (LS: "
    "latency-sensitive, BE: best-effort). Exits with 1 if anything was lost, came twice, was wrong or grew.",
    add_completion=False,
    no_args_is_help=True,
)
WorkerOption = Annotated[
    Worker,
    typer.Option(
        help="simulated: no model, up in a second, times of a table. demo: the demo model, up in ten seconds."
    ),
]
SchedulerOptions = Annotated[
    list[str] | None,
    typer.Option("--option", help="Gives qllm-scheduler one more option, such as --option=--hang-timeout-s=5."),
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Writes the result to this file.")]
SeedOption = Annotated[int, typer.Option(help="Chooses another history of the same kind.")]
MinutesOption = Annotated[float, typer.Option(min=0.05, help="How long it takes.")]


@app.command()
def matrix(
    cells: Annotated[
        list[str] | None, typer.Option(help="Runs cells whose names match, such as 'worker-*@decode'; all if left out.")
    ] = None,
    names: Annotated[bool, typer.Option("--list", help="Only names the cells.")] = False,
    worker: WorkerOption = Worker.SIMULATED,
    option: SchedulerOptions = None,
    json_file: JsonOption = None,
) -> None:
    """Every fault at every moment: what became of the requests, the time to detect it, and to serve again."""
    try:
        chosen = matrix_run.chosen(cells or [])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if names:
        typer.echo("\n".join(cell.name for cell in chosen))
        return
    typer.echo(matrix_run.HEADER)
    settings = _settings(worker, option, matrix_run.OPTIONS)
    results = asyncio.run(matrix_run.run_matrix(chosen, settings, tell=typer.echo))
    clean = sum(result.is_clean and not result.skipped for result in results)
    skipped = sum(bool(result.skipped) for result in results)
    for result in results:
        for example in result.examples:
            typer.echo(f"  {result.name}: {example}")
    typer.echo(f"{len(results)} cells: {clean} clean, {len(results) - clean - skipped} not, {skipped} skipped")
    _end(results, json_file, is_clean=all(result.is_clean for result in results))


@app.command()
def kills(
    minutes: MinutesOption = 20.0,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two kills in the mean.")] = 6.0,
    clients: Annotated[int, typer.Option(min=1, help="Clients that ask, each again when it is answered.")] = 8,
    standby: Annotated[bool, typer.Option("--standby", help="Has a second worker stand by.")] = False,
    worker: WorkerOption = Worker.SIMULATED,
    option: SchedulerOptions = None,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
) -> None:
    """Kills the worker at random times while streams are open: what became of them, and what each kill cost."""
    settings = _settings(worker, option, ("--standby", "1") if standby else ())
    result = asyncio.run(
        kills_run.run_kills(
            settings, duration_s=60 * minutes, every_s=every, num_clients=clients, seed=seed, tell=typer.echo
        )
    )
    _tell(kills_run.report(result))
    _end(result, json_file, is_clean=result.is_clean)


@app.command()
def jobs(
    number: Annotated[int, typer.Option(min=1, help="Jobs of one to three items.")] = 5000,
    num_kills: Annotated[int, typer.Option("--kills", min=1, help="Kills of schedulers, all together.")] = 100,
    postgresql: Annotated[
        bool,
        typer.Option(
            "--postgresql",
            help="Two schedulers on one PostgreSQL, which is started for this, and killed under them; otherwise one "
            "scheduler on SQLite.",
        ),
    ] = False,
    option: SchedulerOptions = None,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
) -> None:
    """Kills schedulers at random while jobs come in and run: whether each accepted job is done once, and rightly."""
    if postgresql and (why_not := why_no_postgresql()):
        typer.echo(f"skipped: {why_not}")
        return
    amounts = jobs_run.ON_POSTGRESQL if postgresql else jobs_run.ON_SQLITE
    amounts = replace(amounts, num_jobs=number, num_kills=num_kills)
    result = asyncio.run(jobs_run.run_jobs(_settings(Worker.SIMULATED, option), amounts, seed=seed, tell=typer.echo))
    _tell(jobs_run.report(result))
    _end(result, json_file, is_clean=result.is_clean)


@app.command()
def soak(
    minutes: MinutesOption = 30.0,
    clients: Annotated[int, typer.Option(min=1, help="Clients that ask, leave early or read slowly.")] = 12,
    worker: WorkerOption = Worker.DEMO,
    option: SchedulerOptions = None,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
) -> None:
    """A long load with random cancels and slow readers: whether memory, descriptors, threads or blocks grow."""
    settings = _settings(worker, option)
    result = asyncio.run(
        soak_run.run_soak(settings, duration_s=60 * minutes, num_clients=clients, seed=seed, tell=typer.echo)
    )
    _tell(soak_run.report(result))
    _end(result, json_file, is_clean=result.is_clean)


@app.command()
def overload(
    factor: Annotated[float, typer.Option(min=1, help="How many times its capacity the service is asked for.")] = 5.0,
    minutes: MinutesOption = 5.0,
    worker: WorkerOption = Worker.SIMULATED,
    option: SchedulerOptions = None,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
) -> None:
    """More requests than can be answered: memory, who is refused, and whether as much is answered as before."""
    settings = _settings(worker, option, overload_run.OPTIONS)
    result = asyncio.run(
        overload_run.run_overload(settings, factor=factor, duration_s=60 * minutes, seed=seed, tell=typer.echo)
    )
    _tell(overload_run.report(result))
    _end(result, json_file, is_clean=not result.problems)


def _settings(worker: Worker, options: Sequence[str] | None, own: Sequence[str] = ()) -> Settings:
    given = [part for option in options or () for part in option.split("=", 1)]
    default = Settings()
    return replace(default, simulated=worker is Worker.SIMULATED, options=(*default.options, *own, *given))


def _tell(lines: Sequence[str]) -> None:
    typer.echo("\n".join(lines))


def _end(result: Any, json_file: Path | None, *, is_clean: bool) -> None:
    if json_file is not None:
        json_file.write_text(json.dumps({"is_clean": is_clean, "result": result}, default=_plain, indent=1) + "\n")
    raise typer.Exit(0 if is_clean else 1)


def _plain(value: object) -> object:
    if not is_dataclass(value):
        return str(value)
    return {field.name: getattr(value, field.name) for field in fields(value)}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is ended
    app()
