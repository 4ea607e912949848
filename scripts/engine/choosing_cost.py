"""Measures what rules and structures cost a decode: penalties, biases and bad words, alternatives, a JSON schema.

    python -m scripts.engine.choosing_cost --model bench-models/mini-mixtral --sequences 32

Drives a Runner in this process, without scheduler or sockets. Each kind has sequences of its own, which decode in one
batch; the kinds take turns step by step, so that what else the machine does meets them alike. For each kind it prints
the median step, and the mean ratio to a plain step of the same turn with its standard error.
"""

import json
import os
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from gpu_worker.machine.process import SPIN_COUNT

os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # as the worker sets it (wait_briefly), before OpenMP is loaded

import torch
import typer
from llguidance import LLMatcher

from gpu_worker.contract.commands import AddSequence, BatchItem, Sampling
from gpu_worker.cursor import Cursor
from gpu_worker.execution.runner import Runner
from gpu_worker.model.loader import load_model
from gpu_worker.startup.warmup import touch_memory

_BLOCK_SIZE = 16
_PLAIN = "plain"
# An endless list of objects, so that no text is whole before the measurement is over.
_ITEM = {"type": "object", "properties": {"name": {"type": "string"}, "price": {"type": "number"}}}
_SCHEMA = json.dumps({"type": "array", "items": {**_ITEM, "required": ["name", "price"]}, "minItems": 1000})

KINDS: Mapping[str, Sampling] = {
    _PLAIN: Sampling(temperature=1.0),
    "penalties": Sampling(temperature=1.0, repetition_penalty=1.1, presence_penalty=0.5, frequency_penalty=0.5),
    "biases": Sampling(
        temperature=1.0,
        logit_bias=[(token_id, -1.0) for token_id in range(100, 400)],
        bad_words=[(token_id, token_id + 1) for token_id in range(500, 550)],
    ),
    "alternatives": Sampling(temperature=1.0, num_top_logprobs=5),
    "JSON schema": Sampling(temperature=1.0, grammar=LLMatcher.grammar_from_json_schema(_SCHEMA)),
}


class Group:
    """Sequences of one kind, which decode together.

    Args:
        runner: Runs them.
        first_id: The first one's id, and the batch's.
        prompts: Their prompts.
        sampling: How their tokens are chosen.
        block_ids: Blocks that there is room in, as many for each.
    """

    def __init__(
        self,
        runner: Runner,
        first_id: int,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        block_ids: Sequence[int],
    ) -> None:
        self._runner = runner
        self._batch_id = first_id
        self._seq_ids = range(first_id, first_id + len(prompts))
        self._length = len(prompts[0])
        each = len(block_ids) // len(prompts)
        for number, (seq_id, prompt) in enumerate(zip(self._seq_ids, prompts, strict=True)):
            own = replace(sampling, seed=seq_id)
            seen = sorted(set(prompt)) if sampling.repetition_penalty != 1 else ()
            runner.add_sequence(AddSequence(seq_id, own, (), 1 << 30, prompt_token_ids=seen))
            item = BatchItem(seq_id, len(prompt), prompt, 0, block_ids[number * each : (number + 1) * each])
            self._run([item])

    def step_s(self) -> float:
        """Decodes one token of each, and returns the seconds that it took."""
        items = [BatchItem(seq_id, 1, (), self._length) for seq_id in self._seq_ids]
        began_s = time.perf_counter()
        self._run(items)
        self._length += 1
        return time.perf_counter() - began_s

    def _run(self, items: Sequence[BatchItem]) -> None:
        self._runner.start_batch(self._batch_id, items)
        outcome = self._runner.advance([self._batch_id], Cursor(self._runner.facts.num_layers))
        reasons = [error.message for error in outcome.batch_errors]
        reasons += [error.message for error in outcome.sequence_errors]
        if reasons:
            raise SystemExit(f"could not be measured: {reasons[0]}")


def choosing_cost(
    model: Annotated[str, typer.Option(help="Model directory; it needs a tokenizer.")] = "bench-models/mini-mixtral",
    threads: Annotated[int, typer.Option(min=1, help="Threads of one tensor operation.")] = 2,
    sequences: Annotated[int, typer.Option(min=1, help="Sequences that decode together.")] = 32,
    context: Annotated[int, typer.Option(min=1, help="Tokens of each prompt.")] = 500,
    steps: Annotated[int, typer.Option(min=2, help="Decodes of each kind that are timed.")] = 60,
    json_file: Annotated[Path | None, typer.Option("--json", help="Writes the figures to this file.")] = None,
) -> None:
    """Prints what each kind of rule costs a decode."""
    torch.set_num_threads(threads)
    chance, warm_up = random.Random(0), 5
    each = -(-(context + steps + warm_up) // _BLOCK_SIZE)
    with torch.inference_mode():
        loaded = load_model(model)
        runner = Runner(loaded, each * sequences * len(KINDS), _BLOCK_SIZE, 0)
        vocab_size = loaded.facts.vocab_size
        prompts = [[chance.randrange(vocab_size) for _ in range(context)] for _ in range(sequences)]
        groups: dict[str, Group] = {}
        for number, (name, sampling) in enumerate(KINDS.items()):
            blocks = range(number * each * sequences, (number + 1) * each * sequences)
            groups[name] = Group(runner, 1 + number * sequences, prompts, sampling, blocks)
        touch_memory()
        turns = [{name: group.step_s() for name, group in groups.items()} for _ in range(warm_up + steps)][warm_up:]
    figures = {name: _figures([turn[name] for turn in turns], [turn[_PLAIN] for turn in turns]) for name in KINDS}
    for name, figure in figures.items():
        ratio, error = figure["ratio"], figure["ratio_error"]
        print(f"{name:12} median {figure['median_ms']:7.2f} ms   of plain {ratio:.3f} ± {error:.3f}")
    if json_file is not None:
        json_file.write_text(json.dumps({"sequences": sequences, "context": context, "figures": figures}, indent=1))


def _figures(times_s: Sequence[float], plain_s: Sequence[float]) -> dict[str, float]:
    ratios = [time_s / other_s for time_s, other_s in zip(times_s, plain_s, strict=True)]
    return {
        "median_ms": statistics.median(times_s) * 1e3,
        "ratio": statistics.mean(ratios),
        "ratio_error": statistics.stdev(ratios) / len(ratios) ** 0.5,
    }


if __name__ == "__main__":
    typer.run(choosing_cost)
