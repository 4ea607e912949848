"""Runs the paper's experiment on transformers' own continuous batching: model, requests and times as in `bench paper`.

    python -m scripts.peers.transformers_peer --geometry mixtral-8x7b --device cuda --rates 2,8 --seconds 15 --drain 10
    python -m scripts.peers.transformers_peer --geometry tiny --rates 8 --seconds 5

It knows no classes: latency-sensitive requests wait like all others. The engine runs on a thread of this process, as
its authors have it, and the load beside it; what comes out is tabled as `bench paper` does, so that the two can be
laid side by side.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from qllm.client.bench.commands.paper import PaperOptions, run_rates
from qllm.client.bench.commands.paper_results import MeasuredResult, iteration_ms_of, own_grids
from qllm.client.bench.errors import RequestFailed
from qllm.client.bench.load.run import Run
from qllm.client.bench.load.target import Ask, Chunk, Ending, Stream, TargetFacts
from qllm.client.bench.report.progress import ProgressBar
from qllm.client.bench.report.simulate_tables import result_grids
from qllm.client.bench.results.summary import Objective
from qllm.client.bench.service.geometries import Geometry, write_geometry
from qllm.client.bench.service.interrupts import Interrupts, run_interruptibly
from qllm.client.bench.simulation.sweep import Axis, PointResult, parse_values
from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.generation.continuous_batching.requests import GenerationOutput

from gpu_worker.model.weights import WeightOptions, make_random_model

LABEL = "fcfs"  # which it is: the tables want their baseline


class ContinuousBatchingTarget:
    """transformers' continuous batching in this process as the server under test.

    Args:
        model: A causal language model on its device.
        name: Its name.
    """

    def __init__(self, model: Any, name: str) -> None:
        self._name = name
        self._vocab_size = int(model.config.vocab_size)
        model.generation_config.eos_token_id = -1
        model.generation_config.do_sample = False
        self._manager = model.init_continuous_batching()

    async def prepare(self) -> TargetFacts:
        """Starts the engine."""
        if not self._manager.is_running():
            self._manager.start()
        return TargetFacts("in-process", "transformers", self._name, self._vocab_size, {})

    async def stream(self, ask: Ask) -> Stream:
        """Streams one generation."""
        assert isinstance(ask.prompt, list)
        outputs: asyncio.Queue[GenerationOutput] = asyncio.Queue()
        request_id = f"request-{id(outputs)}"
        self._manager.register_result_handler(request_id, outputs.put_nowait)
        self._manager.add_request(ask.prompt, request_id, max_new_tokens=ask.max_tokens, streaming=True)
        num_tokens = 0
        try:
            while num_tokens < ask.max_tokens:
                output = await outputs.get()
                if output.error is not None:
                    raise RequestFailed("error", output.error)
                if new := len(output.generated_tokens) - num_tokens:
                    num_tokens += new
                    yield Chunk(new)
                if output.is_finished():
                    break
        finally:
            if num_tokens < ask.max_tokens:
                self._manager.cancel_request(request_id)
        yield Ending(num_tokens, len(ask.prompt), None)

    async def counters(self) -> Mapping[str, int]:
        """It has none."""
        return {}

    async def close(self) -> None:
        """Stops the engine."""
        self._manager.stop(block=True, timeout=30)


def transformers_peer(
    geometry: Annotated[Geometry | None, typer.Option(help="A shape, with random weights made on the device.")] = None,
    model: Annotated[str | None, typer.Option(metavar="DIR", help="A model of your own instead.")] = None,
    device: Annotated[str, typer.Option(help="Where it runs: cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Threads of one tensor operation.")] = 1,
    rates: Annotated[str, typer.Option(metavar="A,B,...", help="Requests a second, both classes.")] = "1,2,4,8",
    seconds: Annotated[float, typer.Option(min=0.5, help="Measuring window at each rate.")] = 20.0,
    warm_up: Annotated[float, typer.Option(min=0, help="Seconds of load before it.")] = 3.0,
    drain: Annotated[float, typer.Option(min=0, help="Longest wait for its requests to end.")] = 15.0,
    max_output_tokens: Annotated[int, typer.Option(min=4, help="Where outputs are cut.")] = 100,
    max_prompt_tokens: Annotated[int, typer.Option(min=4, help="Where prompts are cut.")] = 2048,
    seed: Annotated[int, typer.Option(help="Fixes arrivals, classes and lengths.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where figures are written.")] = None,
) -> None:
    """Runs the experiment's requests through transformers' continuous batching and prints the experiment's tables."""
    torch.set_num_threads(threads)
    options = PaperOptions(
        geometry,
        model,
        rates,
        max_output_tokens=max_output_tokens,
        max_prompt_tokens=max_prompt_tokens,
        seconds=seconds,
        warm_up=warm_up,
        drain=drain,
        seed=seed,
    )
    values = parse_values(rates, "--rates")
    loaded = _load(geometry, model, device)

    async def command(interrupts: Interrupts) -> list[Run]:
        target = ContinuousBatchingTarget(loaded, str(geometry or model))
        with ProgressBar(Console(stderr=True)) as bar:
            return await run_rates(target, options, values, "transformers", bar, interrupts)

    runs, exit_code = run_interruptibly(command)
    _report(runs, values, options.slo_s, json_file)
    raise typer.Exit(exit_code)


def _load(geometry: Geometry | None, model: str | None, device: str) -> Any:
    if model is not None and geometry is None:
        loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype="auto", use_safetensors=True)
        return loaded.to(device).eval()
    if geometry is None or model is not None:
        raise typer.BadParameter("name one of both", param_hint="--geometry or --model")
    with TemporaryDirectory() as directory:
        write_geometry(geometry, Path(directory))
        config = AutoConfig.from_pretrained(directory)
    made, _ = make_random_model(config, WeightOptions(source="dummy"), device)
    return made.eval()


def _report(runs: list[Run], rates: Sequence[float], slo_s: float, json_file: Path | None) -> None:
    if not runs:
        return
    iteration_ms = iteration_ms_of(runs[0].measurement)
    sweep = [
        PointResult(rate, {LABEL: MeasuredResult.of(run.measurement, slo_s, iteration_ms)})
        for rate, run in zip(rates, runs, strict=False)
    ]
    console = Console()
    grids = (*result_grids(Axis.RATE, sweep, Objective(ttft_ms=slo_s * 1e3), "MEASURED"), *own_grids(sweep)[1:])
    for title, header, ((_, *cells),) in ((grid.title, grid.header, grid.rows) for grid in grids):
        if LABEL not in title:  # those compare it with itself
            console.print(title, markup=False)
            for row in (header, ("transformers", *cells)):
                console.print("  ".join(f"{cell:>12}" for cell in row), markup=False, highlight=False)
    if json_file is not None:
        points = [{"rate": one.value, "results": {LABEL: asdict(one.results[LABEL])}} for one in sweep]
        json_file.write_text(json.dumps({"peer": "transformers", "points": points}))


if __name__ == "__main__":
    typer.run(transformers_peer)
