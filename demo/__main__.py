"""Shows what QLLM does: the same load on the real service under `qllm` and under `fcfs`, and what it costs the waiting.

Run it with `make demo`, or `python -m demo --help`. Owns the order of events; the parts do the work.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from client import GenerationResult
from demo.load import BE, LS, Foreground, Load, Watcher, Window, run_window
from demo.prompts import DemoWorkload
from demo.report import at_expert, at_layer, compare, results_table
from demo.service import ServiceFailed, Terminated, run, running_service
from demo.show import Show, make_show

_NUM_IDLE_QUESTIONS = 8
_NUM_REFERENCES = 6
_LS_MAX_TOKENS = 24
_BE_MAX_TOKENS = 48
_BE_PROMPT_CHARS = 1_900  # at most as many tokens, which with the output stays within the demo model's 2,048
# Batches of other sizes round differently. In float32 that does not decide between two tokens; in bfloat16 it may.
_WORKER_OPTIONS = ("--dtype", "float32")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user chose."""

    model: str
    seconds: float
    num_be_clients: int
    ls_rate_per_s: float
    seed: int


@dataclass(frozen=True, slots=True)
class Idle:
    """Answers of the service with nothing else to do: to latency-sensitive questions and to best-effort prompts."""

    ls: dict[int, GenerationResult]
    be: dict[int, GenerationResult]


async def run_demo(settings: Settings, console: Console) -> bool:
    """Runs everything, prints the report, and returns whether all outputs were identical."""
    workload = DemoWorkload(
        seed=settings.seed,
        be_prompt_chars=_BE_PROMPT_CHARS,
        be_max_tokens=_BE_MAX_TOKENS,
        ls_max_tokens=_LS_MAX_TOKENS,
    )
    with make_show(console) as show:
        show.begin("Starting the service: scheduler and worker, policy qllm")
        async with running_service(
            settings.model, "qllm", worker_options=_WORKER_OPTIONS, on_wait=show.waiting
        ) as client:
            idle = await _measure_idle(Load(client, workload, show), show)
            show.begin(f"{settings.num_be_clients} best-effort clients flood the service; people ask meanwhile: qllm")
            qllm = await _run_load(Load(client, workload, show), settings)
        show.begin("Starting the service again, policy fcfs")
        async with running_service(
            settings.model, "fcfs", worker_options=_WORKER_OPTIONS, on_wait=show.waiting
        ) as client:
            show.begin("The same requests at the same times, first come first served: fcfs")
            fcfs = await _run_load(Load(client, workload, show), settings)
    return _report(console, idle, fcfs, qllm)


async def _measure_idle(load: Load, show: Show) -> Idle:
    show.begin("Nothing else to do: questions one by one, then some best-effort prompts for reference")
    await Load(load.client, load.workload, Watcher()).ask(LS, _NUM_IDLE_QUESTIONS)  # the first one warms up
    await load.ask_one_by_one(LS, range(_NUM_IDLE_QUESTIONS), pause_s=0.1)
    await load.ask_one_by_one(BE, range(_NUM_REFERENCES))
    return Idle(load.answers[LS], load.answers[BE])


async def _run_load(load: Load, settings: Settings) -> Window:
    foreground = Foreground(settings.seconds, settings.ls_rate_per_s, seed=settings.seed)
    return await run_window(load, foreground, num_be_clients=settings.num_be_clients)


def _report(console: Console, idle: Idle, fcfs: Window, qllm: Window) -> bool:
    interrupted = qllm.answers[BE]
    comparisons = (
        compare("Best-effort tokens, interrupted (qllm) against alone on an idle service", interrupted, idle.be),
        compare(
            "Best-effort tokens, interrupted (qllm) against never interrupted (fcfs)", interrupted, fcfs.answers[BE]
        ),
    )
    console.print()
    console.print(results_table(idle.ls, fcfs, qllm))
    console.print(
        f"Under qllm, best-effort work was left standing inside the model {at_expert(qllm) + at_layer(qllm)} times, and "
        "went on from there each time.",
        highlight=False,
        soft_wrap=True,
    )
    for comparison in comparisons:
        console.print(
            str(comparison), style="green" if comparison.is_proof else "bold red", highlight=False, soft_wrap=True
        )
    return all(comparison.is_proof for comparison in comparisons)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def demo(
    model: Annotated[str, typer.Option(help="Directory or hub id of a Mixture-of-Experts model.")] = str(
        Path(__file__).parent / "model"
    ),
    seconds: Annotated[float, typer.Option(min=1, help="Length of the load under each policy.")] = 20.0,
    be_clients: Annotated[int, typer.Option(min=1, help="Best-effort clients, each always with one request.")] = 12,
    ls_rate: Annotated[float, typer.Option(min=0.01, help="Latency-sensitive requests a second, on average.")] = 2.0,
    seed: Annotated[int, typer.Option(help="Fixes the prompts and the arrival times.")] = 0,
) -> None:
    """Floods a small real model with best-effort work, asks questions meanwhile, and compares qllm with fcfs.

    Starts the scheduler and the worker as their own processes and stops them at the end; Ctrl-C stops them too.
    The exit code is 1 if any best-effort output differs from its uninterrupted reference, or on an error.
    """
    console, errors = Console(), Console(stderr=True)
    settings = Settings(model, seconds, be_clients, ls_rate, seed)
    try:
        all_identical = run(run_demo(settings, console))
    except KeyboardInterrupt:
        errors.print("Interrupted; both processes were stopped.")
        raise typer.Exit(130) from None
    except Terminated:
        raise typer.Exit(143) from None
    except ServiceFailed as failure:
        errors.print(f"The demo failed: {failure}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    raise typer.Exit(0 if all_identical else 1)


if __name__ == "__main__":
    app()
