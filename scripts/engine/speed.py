"""Measures the engine alone: decode steps, prefill, and how near they come to what the memory allows.

    python -m scripts.engine.speed --model bench-models/mini-mixtral
    python -m scripts.engine.speed --model bench-models/mini-mixtral --weights dense --weights packed
    python -m scripts.engine.speed --model DIR --dtype bfloat16 --quantization none --quantization int8
    python -m scripts.engine.speed --device cuda --geometry mixtral-8x7b --dtype bfloat16  # random weights, made there
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python -m scripts.engine.speed  # huge pages, if Linux gives them on request

Drives a Runner in this process, without scheduler or sockets, over real blocks. Types, quantizations and forms of
weights that are compared take turns step by step, so that what else the machine does meets them alike; the fastest and
the median step are printed. A "stopped" decode is suspended and resumed before every layer.
"""

import json
import os
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

from gpu_worker.machine.process import SPIN_COUNT

os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # as the worker sets it (wait_briefly), before OpenMP is loaded

import torch
import typer
from qllm.client.bench.service.geometries import Geometry, write_geometry
from torch import nn

from gpu_worker.contract.commands import AddSequence, BatchItem, Sampling
from gpu_worker.contract.results import WorkTiming
from gpu_worker.cursor import Cursor
from gpu_worker.execution.runner import Runner
from gpu_worker.experts.matrices import MatrixLinear
from gpu_worker.experts.queues import is_experts
from gpu_worker.model.loader import LoadedModel, load_model
from gpu_worker.model.weights import WeightOptions
from gpu_worker.replay.recording import record_decodes
from gpu_worker.settings import DType, Quantization, Weights
from scripts.engine.bandwidth import read_bandwidth

_BLOCK_SIZE = 16
_BATCH_ID = 1


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one iteration has to read from memory.

    Attributes:
        shared_bytes: Weights that every iteration reads: all but experts and token embeddings.
        expert_bytes: Weights of one expert of one layer.
        row_bytes: K and V of one token in all layers.
    """

    shared_bytes: int
    expert_bytes: int
    row_bytes: int

    @classmethod
    def of(cls, loaded: LoadedModel, runner: Runner) -> "Traffic":
        """Adds up what is in memory; the runner must have run something, so that its cache is."""
        modules = [m for m in loaded.model.modules() if not isinstance(m, nn.Embedding) and not is_experts(m)]
        shared = {id(tensor): tensor.nbytes for module in modules for tensor in module.parameters(recurse=False)}
        packed = sum(module.matrix.nbytes for module in modules if isinstance(module, MatrixLinear))
        experts = sum(weights.nbytes for weights in loaded.expert_weights if weights is not None)
        num_experts = sum(loaded.facts.experts_by_layer)
        row_bytes = runner.cache.block_bytes // runner.cache.block_size
        return cls(sum(shared.values()) + packed, experts // num_experts, row_bytes)

    def bytes_of(self, timing: WorkTiming, context_tokens: int) -> int:
        """Bytes that an iteration must read: each weight it used once, and each cached row."""
        return self.shared_bytes + timing.num_expert_runs * self.expert_bytes + context_tokens * self.row_bytes


@dataclass(slots=True)
class Figures:
    """Times of one kind of iteration, in milliseconds, and the bytes that one has to read."""

    times_ms: list[float] = field(default_factory=list)
    num_bytes: int = 0

    def report(self, bandwidth: float) -> dict[str, float]:
        """Fastest and median, and the share of the time that reading alone would take."""
        fastest_ms = min(self.times_ms)
        return {
            "min_ms": fastest_ms,
            "median_ms": statistics.median(self.times_ms),
            "floor_ms": self.num_bytes / bandwidth * 1e3,
            "floor_share": self.num_bytes / bandwidth / (fastest_ms / 1e3),
        }


class Bench:
    """One model with its sequences, stepped from outside.

    Args:
        loaded: The model.
        num_sequences: Sequences that decode at most.
        context: Tokens of each before the first decode.
        chunk: Tokens of one prefill iteration.
        num_steps: Decode iterations that there must be room for.
        longest: Tokens of the longest prefill that is timed.
        recorded: Batch sizes whose decodes are to be replayed from graphs.

    Attributes:
        recorded: Those for which that can be done.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        num_sequences: int,
        context: int,
        chunk: int,
        num_steps: int,
        longest: int,
        recorded: Sequence[int] = (),
    ) -> None:
        self._blocks_each = -(-(context + num_steps) // _BLOCK_SIZE)
        longest_blocks = -(-longest // _BLOCK_SIZE)  # behind all others
        self._runner = Runner(loaded, self._blocks_each * num_sequences + longest_blocks, _BLOCK_SIZE, 0)
        self._loaded = loaded
        self._chunk = chunk
        self._end = Cursor(loaded.facts.num_layers)
        self._chance = random.Random(0)
        self._lengths: dict[int, int] = {}
        self.prefill = Figures()
        self.recorded: tuple[int, ...] = ()
        self.decodes: dict[str, Figures] = {}
        for seq_id in range(num_sequences):
            self._fill(seq_id, context, range(seq_id * self._blocks_each, (seq_id + 1) * self._blocks_each))
        self._other_blocks = range(num_sequences * self._blocks_each, self._runner.cache.num_blocks)
        if recorded:
            one_by_one = [range(layer, layer + 1) for layer in range(loaded.facts.num_layers)]
            # No longer than it gets: where no kernel reads block tables, a replay reads all rows that it may have.
            length = context + num_steps
            recordings = record_decodes(loaded, self._runner.cache, recorded, one_by_one, longest=length)
            self._runner.record_decodes(recordings, 0.0)
            self.recorded = tuple(recording.placement.num_rows for recording in recordings)

    def time_prefill(self, num_tokens: int) -> None:
        """Times the prefill of one more sequence, which is forgotten again."""
        seq_id = len(self._lengths)
        began_s = time.perf_counter()
        self._fill(seq_id, num_tokens, self._other_blocks)
        self.prefill.times_ms.append((time.perf_counter() - began_s) * 1e3)
        self._runner.drop_sequence(seq_id)
        del self._lengths[seq_id]

    def time_decode(self, batch_size: int, *, stopped: bool = False) -> None:
        """Times one decode iteration of the first sequences, suspended before every layer if so wished."""
        seq_ids = range(batch_size)
        items = [BatchItem(seq_id, 1, (), self._lengths[seq_id]) for seq_id in seq_ids]
        stops = [Cursor(layer) for layer in range(1, self._end.layer)] if stopped else []
        began_s = time.perf_counter()
        timing = self._run(items, stops)
        elapsed_ms = (time.perf_counter() - began_s) * 1e3
        for seq_id in seq_ids:
            self._lengths[seq_id] += 1
        figures = self.decodes.setdefault(f"decode {batch_size}{' stopped' if stopped else ''}", Figures())
        figures.times_ms.append(elapsed_ms)
        if elapsed_ms == min(figures.times_ms):
            traffic = Traffic.of(self._loaded, self._runner)
            figures.num_bytes = traffic.bytes_of(timing, sum(self._lengths[seq_id] for seq_id in seq_ids))

    def _fill(self, seq_id: int, num_tokens: int, all_blocks: Sequence[int]) -> None:
        """Adds a sequence and computes its prompt chunk by chunk."""
        vocab_size = self._loaded.facts.vocab_size
        prompt = [self._chance.randrange(vocab_size) for _ in range(num_tokens)]
        self._runner.add_sequence(AddSequence(seq_id, Sampling(), (), max_tokens=1 << 30))
        for start in range(0, num_tokens, self._chunk):
            chunk = prompt[start : start + self._chunk]
            is_last = start + len(chunk) == num_tokens
            self._run([BatchItem(seq_id, len(chunk), chunk, start, () if start else all_blocks, is_last)])
        self._lengths[seq_id] = num_tokens

    def _run(self, items: list[BatchItem], stops: Sequence[Cursor] = ()) -> WorkTiming:
        self._runner.start_batch(_BATCH_ID, items)
        whole = WorkTiming()
        for until in (*stops, self._end):
            outcome = self._runner.advance([_BATCH_ID], until)
            if outcome.batch_errors:
                raise RuntimeError(outcome.batch_errors[0].message)
            for part in fields(WorkTiming):
                setattr(whole, part.name, getattr(whole, part.name) + getattr(outcome.timing, part.name))
        return whole


def engine_speed(
    model: Annotated[str, typer.Option(help="Model directory.")] = "bench-models/mini-mixtral",
    geometry: Annotated[Geometry | None, typer.Option(help="Random weights of a shape instead.")] = None,
    device: Annotated[str, typer.Option(help="Where it runs: cpu or cuda.")] = "cpu",
    quantization: Annotated[
        list[Quantization] | None, typer.Option(help="What weights are quantized to, to compare.  [default: none]")
    ] = None,
    enforce_eager: Annotated[bool, typer.Option("--enforce-eager", help="On cuda, replay no decodes.")] = False,
    weights: Annotated[list[Weights] | None, typer.Option(help="Forms to compare.  [default: auto]")] = None,
    dtype: Annotated[list[DType] | None, typer.Option(help="Compute types to compare.  [default: auto]")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one tensor operation.")] = 1,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Decode batches.  [default: 1, 8, 16]")] = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens before the first decode step.")] = 1_000,
    prefill: Annotated[int, typer.Option(min=1, help="Tokens of the prefill that is timed.")] = 1_024,
    chunk: Annotated[int, typer.Option(min=1, help="Tokens of one prefill iteration.")] = 256,
    rounds: Annotated[int, typer.Option(min=1, help="Decode steps of each batch; a quarter as many prefills.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
) -> None:
    """Prints decode step times, prefill time, and their share of the memory-bandwidth floor."""
    torch.set_num_threads(threads)
    ways = list(product(dtype or [DType.AUTO], quantization or [Quantization.NONE], weights or [Weights.AUTO]))
    batch_sizes = sorted(batch or [1, 8, 16])
    recorded = batch_sizes if device != "cpu" and not enforce_eager else ()
    with torch.inference_mode(), TemporaryDirectory() as directory:
        if geometry is not None:
            write_geometry(geometry, Path(directory))
        benches = {}
        for way in ways:
            compute_type, scheme, form = way
            options = WeightOptions(
                compute_type.value, form.value, scheme.value, source="auto" if geometry is None else "dummy"
            )
            loaded = load_model(model if geometry is None else directory, device=device, options=options)
            num_steps = 2 * rounds * len(batch_sizes)
            benches[" ".join(way)] = Bench(loaded, max(batch_sizes), context, chunk, num_steps, prefill, recorded)
        for number in range(rounds):
            for bench in benches.values():
                for batch_size in batch_sizes:
                    bench.time_decode(batch_size)
                    bench.time_decode(batch_size, stopped=True)
                if number % 4 == 0:
                    bench.time_prefill(prefill)
        bandwidth = read_bandwidth(device)
    reports = {name: _report(bench, bandwidth) for name, bench in benches.items()}
    if as_json:
        print(json.dumps({"read_bytes_per_s": bandwidth, "weights": reports}))
        return
    print(
        f"plain reads {bandwidth / 1e9:.1f} GB/s, {threads} thread(s), context {context}, prefill {prefill} by {chunk}"
    )
    for way_in_words, report in reports.items():
        for what, figures in report.items():
            print(f"{way_in_words:22} {what:17}", "  ".join(f"{name} {value:8.2f}" for name, value in figures.items()))


def _report(bench: Bench, bandwidth: float) -> dict[str, dict[str, float]]:
    report = {what: figures.report(bandwidth) for what, figures in bench.decodes.items()}
    prefill = bench.prefill.report(bandwidth)
    return report | {"prefill": {name: prefill[name] for name in ("min_ms", "median_ms")}}


if __name__ == "__main__":
    typer.run(engine_speed)
