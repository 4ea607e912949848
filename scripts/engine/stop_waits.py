"""Measures how long a stop has to wait inside best-effort chunks: the stretches between places where a batch can stand.

    python -m scripts.engine.stop_waits --model bench-models/mini-mixtral --chunk 256 --chunk 1024 --prompt 3072

Drives a Runner in this process and notes when it is asked whether to go on. For the last chunk of a prompt it prints
the longest stretch, and the mean wait of a stop that comes at a random time: half of the mean squared stretch over
the mean stretch.
"""

import os
import random
import statistics
import time
from itertools import pairwise
from typing import Annotated

from gpu_worker.machine.process import SPIN_COUNT

os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # as the worker sets it (wait_briefly), before OpenMP is loaded

import torch
import typer

from gpu_worker.contract.commands import AddSequence, BatchItem, Sampling
from gpu_worker.cursor import Cursor
from gpu_worker.execution.runner import Runner
from gpu_worker.model.loader import load_model
from gpu_worker.startup.warmup import touch_memory

_BLOCK_SIZE = 16
_ID = 1


def last_chunk_stretches_s(runner: Runner, prompt: list[int], chunk: int) -> list[float]:
    """Runs a prompt in chunks, and returns the seconds between two places of the last one."""
    runner.add_sequence(AddSequence(_ID, Sampling(), (), max_tokens=2))
    asked_s: list[float] = []

    def goes_on(_: Cursor) -> bool:
        asked_s.append(time.perf_counter())
        return True

    for start in range(0, len(prompt), chunk):
        tokens = prompt[start : start + chunk]
        blocks = () if start else range(runner.cache.num_blocks)
        is_last = start + len(tokens) == len(prompt)
        runner.start_batch(_ID, [BatchItem(_ID, len(tokens), tokens, start, blocks, is_last)])
        asked_s.clear()
        runner.advance([_ID], Cursor(runner.facts.num_layers), goes_on)
        asked_s.append(time.perf_counter())
    runner.drop_sequence(_ID)
    return [end_s - begin_s for begin_s, end_s in pairwise(asked_s)]


def stop_waits(
    model: Annotated[str, typer.Option(help="Model directory.")] = "bench-models/mini-mixtral",
    threads: Annotated[int, typer.Option(min=1, help="Threads of one tensor operation.")] = 2,
    chunk: Annotated[list[int] | None, typer.Option(min=1, help="Tokens of a chunk.  [default: 256, 1024]")] = None,
    prompt: Annotated[list[int] | None, typer.Option(min=1, help="Tokens of a prompt.  [default: 1024, 3072]")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Prompts of each kind, in turns, whose medians are printed.")] = 5,
) -> None:
    """Prints the longest stretch and the mean wait inside of the last chunk of prompts."""
    torch.set_num_threads(threads)
    lengths, chunks, chance = prompt or [1_024, 3_072], chunk or [256, 1_024], random.Random(0)
    figures: dict[tuple[int, int], list[tuple[float, ...]]] = {}
    with torch.inference_mode():
        loaded = load_model(model)
        runner = Runner(loaded, -(-max(lengths) // _BLOCK_SIZE), _BLOCK_SIZE, 0)
        touch_memory()
        for number in range(rounds + 1):  # the first is not typical
            for length in lengths:
                for size in chunks:
                    tokens = [chance.randrange(loaded.facts.vocab_size) for _ in range(length)]
                    stretches_s = last_chunk_stretches_s(runner, tokens, size)
                    wait_s = sum(s * s for s in stretches_s) / 2 / sum(stretches_s)
                    if number:
                        figures.setdefault((length, size), []).append((max(stretches_s), wait_s, sum(stretches_s)))
    for (length, size), rows in figures.items():
        longest_s, wait_s, all_s = map(statistics.median, zip(*rows, strict=True))
        print(
            f"prompt {length:5} by {size:5}: longest {longest_s * 1e3:6.1f} ms, "
            f"mean wait {wait_s * 1e3:6.2f} ms, last chunk {all_s * 1e3:6.0f} ms"
        )


if __name__ == "__main__":
    typer.run(stop_waits)
