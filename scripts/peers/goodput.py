"""Searches QLLM and what users can pick instead for their goodput: one after another, each alone on the machine.

    python -m scripts.peers.goodput --model bench-models/mini-mixtral --vllm VENV --vllm-cores 0-1 --transformers VENV \
        --output results/ -- --ls-rate 0.7 --seconds 30

QLLM under its default policy, under fcfs and under priority-iteration; vLLM's priority scheduling at budgets of 128,
256 and 2,048 tokens; transformers' continuous batching. VENV is as in `scripts.peers`. Each server is started, searched
by `qllm-client bench goodput --http`, and stopped. What stands after `--` goes to the bench. A server that fails is
said, and the others go on. Ends with a comparison of all results. A server takes ten minutes to an hour.
"""

import subprocess
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from gpu_worker.settings import DType
from scripts.peers.servers import URL, Server, ServerFailed, bench, qllm, running, transformers, vllm

_POLICIES = (None, "fcfs", "priority-iteration")
_BUDGETS = (128, 256, 2048)


def servers_of(
    model: str,
    dtype: str,
    vllm_venv: Path | None,
    vllm_cores: Sequence[str],
    transformers_venv: Path | None,
) -> Iterator[Server]:
    """Yields what is searched, QLLM under its default policy first; the others are compared with it."""
    for policy in _POLICIES:
        yield qllm(model, dtype, policy=policy)
    if vllm_venv is not None:
        for budget, cores in product(_BUDGETS, vllm_cores or (None,)):
            yield vllm(vllm_venv, model, dtype, budget, cores)
    if transformers_venv is not None:
        yield transformers(transformers_venv, model, dtype)


def search_all(servers: Sequence[Server], output: Path, rounds: int, options: Sequence[str]) -> list[Path]:
    """Searches each server, as often as that; returns the result files of those that did not fail."""
    found: list[Path] = []
    for number, server in product(range(rounds), servers):
        print(f"--- {server.label}, round {number + 1} of {rounds}", flush=True)
        result = output / f"{server.slug}-{number}.json"
        where = ["--http", URL, "--label", server.label, "--json", str(result)]
        try:
            with running(server, result.with_suffix(".log")):
                bench("goodput", *where, "--prompt-form", "text", *server.bench, *options)
            found.append(result)
        except (ServerFailed, subprocess.CalledProcessError) as failure:
            print(f"--- {server.label} failed: {failure}", flush=True)
    return found


def goodput(
    model: Annotated[
        Path, typer.Option(exists=True, file_okay=False, resolve_path=True, help="Directory of the model.")
    ],
    output: Annotated[Path, typer.Option(help="Directory for results, logs and the comparison.")],
    vllm_venv: Annotated[Path | None, typer.Option("--vllm", exists=True, help="Virtual environment of vLLM.")] = None,
    vllm_cores: Annotated[
        list[str] | None, typer.Option(help='Cores that it computes on, such as "0-1". [default: its own]')
    ] = None,
    transformers_venv: Annotated[
        Path | None, typer.Option("--transformers", exists=True, help="Virtual environment of transformers[serving].")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help='Searches only servers of this label, such as "QLLM" or "vLLM 256".')
    ] = None,
    dtype: Annotated[DType, typer.Option(help="Type that all compute in; auto: what each chooses.")] = DType.FLOAT32,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is searched.")] = 1,
    bench_argument: Annotated[
        list[str] | None, typer.Argument(help="Options of `qllm-client bench goodput`, after --.")
    ] = None,
) -> None:
    """Searches QLLM and its peers for their goodput under the same latency-sensitive load, and compares them."""
    servers = list(servers_of(str(model), dtype, vllm_venv, vllm_cores or (), transformers_venv))
    chosen = [server for server in servers if only is None or server.label in only]
    if not chosen:
        labels = ", ".join(server.label for server in servers)
        raise typer.BadParameter(f"got {', '.join(only or ())}; allowed here is {labels}", param_hint="--only")
    output.mkdir(parents=True, exist_ok=True)
    found = search_all(chosen, output, rounds, bench_argument or [])
    if found:
        pictures = ["--png", str(output / "comparison.png"), "--html", str(output / "comparison.html")]
        bench("compare", *map(str, found), *pictures)
    raise typer.Exit(0 if len(found) == rounds * len(chosen) else 1)


if __name__ == "__main__":
    typer.run(goodput)
