"""Runs a few shapes through a model before it serves: warms caches and allocators, and times work for the cost model.

It is one more caller of Runner and leaves nothing behind in it.
"""

from collections.abc import Sequence

import torch

from gpu_worker.contract.commands import AddSequence, BatchItem, Sampling
from gpu_worker.contract.results import WorkTiming
from gpu_worker.cursor import Cursor
from gpu_worker.errors import PassFailed
from gpu_worker.execution.runner import Runner

# Ids that no scheduler gives: it counts from below.
_FIRST_ID = 2**63
_PREFILL_TOKENS = (1, 8, 64, 256)
_NUM_DECODES = 4
_TOUCHED_BYTES = 1 << 28  # what steps came to hold of the heap, with its gaps
_PIECE_BYTES = 1 << 24  # small enough to lie in the heap


def warm_up(runner: Runner, block_ids: Sequence[int]) -> list[WorkTiming]:
    """Runs prompts of several lengths, and a few tokens after each.

    Shapes that do not fit the blocks or the model's context are left out.

    Args:
        runner: The runner to warm; it must hold nothing that uses these blocks.
        block_ids: Blocks to use, free before and after.

    Returns:
        What each iteration ran and how long it took; the first run of a shape, which is not typical, is left out.

    Raises:
        PassFailed: The model can't run.
    """
    timings: list[WorkTiming] = []
    for length in _PREFILL_TOKENS:
        if not _fits(runner, length + _NUM_DECODES, block_ids):
            continue
        _generate(runner, length, block_ids)
        timings += _generate(runner, length, block_ids)
    return timings


def touch_memory() -> None:
    """Has the C library own memory that the system has given pages for, so that the first steps need not wait for them.

    It keeps what was freed if its thresholds are high, as `qllm-scheduler --spawn-worker` sets them.
    """
    pieces = [torch.ones(_PIECE_BYTES, dtype=torch.uint8) for _ in range(_TOUCHED_BYTES // _PIECE_BYTES)]
    del pieces


def state_bytes(runner: Runner, block_ids: Sequence[int], num_tokens: int = 1) -> int:
    """Returns the bytes that one sequence of so many tokens keeps besides its rows in blocks: its layers' states.

    Raises:
        PassFailed: The model can't run.
    """
    prompt = [position % runner.facts.vocab_size for position in range(num_tokens)]
    runner.add_sequence(AddSequence(_FIRST_ID, Sampling(), (), max_tokens=1))
    try:
        runner.start_batch(_FIRST_ID, [BatchItem(_FIRST_ID, num_tokens, prompt, 0, block_ids)])
        outcome = runner.advance([_FIRST_ID], Cursor(runner.facts.num_layers))
        if outcome.batch_errors:
            raise PassFailed(f"measuring states of {num_tokens} tokens failed: {outcome.batch_errors[0].message}")
        return runner.cache.state_bytes
    finally:
        runner.drop_sequence(_FIRST_ID)


def _fits(runner: Runner, num_tokens: int, block_ids: Sequence[int]) -> bool:
    return num_tokens <= min(runner.facts.max_model_len, len(block_ids) * runner.cache.block_size)


def _generate(runner: Runner, length: int, block_ids: Sequence[int]) -> list[WorkTiming]:
    """Runs one prompt and a few tokens on it, and forgets it."""
    end = Cursor(runner.facts.num_layers)
    prompt = [position % runner.facts.vocab_size for position in range(length)]
    runner.add_sequence(AddSequence(_FIRST_ID, Sampling(), (), max_tokens=_NUM_DECODES + 1))
    timings = []
    try:
        for step in range(_NUM_DECODES + 1):
            item = (
                BatchItem(_FIRST_ID, length, prompt, 0, block_ids)
                if step == 0
                else BatchItem(_FIRST_ID, 1, (), length + step - 1)
            )
            runner.start_batch(_FIRST_ID, [item])
            outcome = runner.advance([_FIRST_ID], end)
            if outcome.batch_errors:
                raise PassFailed(f"warming up with {length} tokens failed: {outcome.batch_errors[0].message}")
            timings.append(outcome.timing)
    finally:
        runner.drop_sequence(_FIRST_ID)
    return timings
