"""Measures QLLM's and vLLM's prefix caches on the same conversations: one server after another, in turns.

    python -m scripts.peers.prefix --model bench-models/mini-mixtral --vllm VENV --output results/ --rounds 5
    python -m scripts.peers.prefix --model DIR --vllm VENV --output results/ -- --part turns --turns 10 --no-apart

VENV is a virtual environment that holds vLLM for CPU. Each server is started, measured by `qllm-client bench prefix
--http`, and stopped; rounds begin with another server each. What stands after `--` goes to the bench. Ends with tables
of all servers side by side and their ratios, round by round. With mini-mixtral a server's turn
takes about five minutes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from qllm.client.bench.commands.memory.prefix import PARTS
from qllm.client.bench.options.prefix import PrefixPart
from qllm.client.bench.report.grid import Grid
from qllm.client.bench.report.turns_tables import ratios_grid, turns_grid
from qllm.client.bench.results.turns import Turns
from rich.console import Console

from gpu_worker.settings import DType
from scripts.peers.servers import URL, Server, ServerFailed, bench, qllm, running, vllm

_MEASURED = {PrefixPart.REPEAT: "repeated", PrefixPart.TURNS: "shared", PrefixPart.SYSTEM: "shared"}


def side_by_side(results: Sequence[dict[str, Any]]) -> list[Grid]:
    """Returns tables of what `bench prefix` wrote, one result a server and round: the way that shares, by server.

    A result's figures are the means of its own rounds; the n-th result of every server belongs to the n-th round.
    """
    grids: list[Grid] = []
    base = results[0]["label"]
    for part, way in _MEASURED.items():
        turns = Turns()
        for result in results:
            means = result["parts"].get(part, {}).get("means", {}).get(way)
            if means is not None:
                turns.add(result["label"], {name: mean and mean["value"] for name, mean in means.items()})
        if turns.by_label:
            title, figures, _ = PARTS[part]
            ratios = ratios_grid(f"{title}: ratios", turns, figures, base)
            grids += [turns_grid(f"{title}: {way}", turns, figures), *([ratios] if ratios is not None else [])]
    return grids


def measure(server: Server, result: Path, options: Sequence[str]) -> dict[str, Any]:
    """Starts a server, measures it with these options of the bench, and stops it; returns what the bench wrote.

    Raises:
        ServerFailed: It did not come up.
        subprocess.CalledProcessError: The bench failed.
    """
    where = ["--http", URL, "--label", server.label, "--json", str(result)]
    with running(server, result.with_suffix(".log")):
        bench("prefix", *where, *server.bench, *options)
    content: dict[str, Any] = json.loads(result.read_text())
    return content


def prefix(
    model: Annotated[
        Path, typer.Option(exists=True, file_okay=False, resolve_path=True, help="Directory of the model.")
    ],
    output: Annotated[Path, typer.Option(help="Directory for results and logs.")],
    vllm_venv: Annotated[Path | None, typer.Option("--vllm", exists=True, help="Virtual environment of vLLM.")] = None,
    vllm_budget: Annotated[int, typer.Option(min=16, help="Its token budget.")] = 2048,
    vllm_cores: Annotated[
        str | None, typer.Option(help='Cores that it computes on, such as "0-1". [default: its own]')
    ] = None,
    dtype: Annotated[DType, typer.Option(help="Type that all compute in; auto: what each chooses.")] = DType.FLOAT32,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 3,
    bench_argument: Annotated[
        list[str] | None, typer.Argument(help="Options of `qllm-client bench prefix`, after --.")
    ] = None,
) -> None:
    """Measures both on the same load, and tells their ratios."""
    output.mkdir(parents=True, exist_ok=True)
    servers = [qllm(str(model), dtype)]
    if vllm_venv is not None:
        servers.append(vllm(vllm_venv, str(model), dtype, vllm_budget, vllm_cores, shares_prefixes=True))
    results: list[dict[str, Any]] = []
    vocab_size = json.loads((model / "config.json").read_text())["vocab_size"]  # which HTTP does not tell
    for number in range(rounds):
        for server in servers if number % 2 == 0 else reversed(servers):
            print(f"--- {server.label}, round {number + 1} of {rounds}", flush=True)
            file = output / f"prefix-{server.slug}-{number}.json"
            try:
                options = ["--seed", str(number), "--vocab-size", str(vocab_size), *(bench_argument or [])]
                results.append(measure(server, file, options))
            except ServerFailed as failure:
                raise typer.BadParameter(str(failure)) from failure
    for grid in side_by_side(results):
        Console().print(grid.to_table())


if __name__ == "__main__":
    typer.run(prefix)
