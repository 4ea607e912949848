"""Measures QLLM beside what users can pick instead: one model, one load, one machine, one server after another.

    python -m scripts.peers --model bench-models/mini-mixtral --vllm VENV --transformers VENV --output results/

VENV is a virtual environment that holds the peer, on CPU: vLLM, or transformers with its `serving` extra. Each server
is started, measured by `qllm-client bench --http`, and stopped; `--rounds` lets them take turns, so that what else the
machine does meets them alike. What stands after `--` goes to the bench. Ends with a comparison of all results.
"""

from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from gpu_worker.settings import DType
from scripts.peers.servers import URL, ServerFailed, bench, qllm, running, transformers, vllm


def peers(
    model: Annotated[
        Path, typer.Option(exists=True, file_okay=False, resolve_path=True, help="Directory of the model.")
    ],
    output: Annotated[Path, typer.Option(help="Directory for results, logs and the comparison.")],
    vllm_venv: Annotated[Path | None, typer.Option("--vllm", exists=True, help="Virtual environment of vLLM.")] = None,
    vllm_budget: Annotated[list[int] | None, typer.Option(help="Its token budgets. [default: 2048, 256, 128]")] = None,
    vllm_cores: Annotated[
        list[str] | None, typer.Option(help='Cores that it computes on, such as "0-1". [default: its own]')
    ] = None,
    qllm_tpot_ms: Annotated[
        list[float] | None, typer.Option(min=0, help="--ls-tpot-ms of QLLM's scheduler. [default: its own]")
    ] = None,
    qllm_threads: Annotated[
        list[int] | None, typer.Option(min=0, help="Threads of QLLM's worker; 0: its own choice. [default: 0]")
    ] = None,
    transformers_venv: Annotated[
        Path | None, typer.Option("--transformers", exists=True, help="Virtual environment of transformers[serving].")
    ] = None,
    dtype: Annotated[DType, typer.Option(help="Type that all compute in; auto: what each chooses.")] = DType.FLOAT32,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 1,
    bench_argument: Annotated[
        list[str] | None, typer.Argument(help="Options of `qllm-client bench`, after --.")
    ] = None,
) -> None:
    """Measures QLLM and its peers under the same load, and compares them."""
    output.mkdir(parents=True, exist_ok=True)
    source = str(model)
    servers = [
        qllm(source, dtype, num_threads=number, ls_tpot_ms=ms)
        for number, ms in product(qllm_threads or (0,), qllm_tpot_ms or (None,))
    ]
    if vllm_venv is not None:
        settings = product(vllm_budget or (2048, 256, 128), vllm_cores or (None,))
        servers += [vllm(vllm_venv, source, dtype, *setting) for setting in settings]
    if transformers_venv is not None:
        servers.append(transformers(transformers_venv, source, dtype))
    results: list[Path] = []
    for number in range(rounds):
        for server in servers:
            print(f"--- {server.label}, round {number + 1} of {rounds}", flush=True)
            result = output / f"{server.slug}-{number}.json"
            where = ["--http", URL, "--label", server.label, "--json", str(result)]
            try:
                with running(server, result.with_suffix(".log")):
                    bench(*where, "--prompt-form", "text", *server.bench, *(bench_argument or []))
            except ServerFailed as failure:
                raise typer.BadParameter(str(failure)) from failure
            results.append(result)
    pictures = ["--png", str(output / "comparison.png"), "--html", str(output / "comparison.html")]
    bench("compare", *map(str, results), *pictures)


if __name__ == "__main__":
    typer.run(peers)
