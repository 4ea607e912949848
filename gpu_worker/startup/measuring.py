"""Measures what a model keeps of sequences on the device, by running a few tokens: families differ in it.

    tokens     |1 . . . . 255|. . . . . . 511|     a memory of a layer's own: windows, and what grows with the text
    bytes       s1            s2                   (s2 - s1) / 256 for each token, the rest however long the text is

Both lengths leave what such memories gather before they compress it as full as it gets.
"""

from dataclasses import replace

from gpu_worker.cache.compressed import Form
from gpu_worker.execution.runner import Runner
from gpu_worker.model.loader import LoadedModel
from gpu_worker.startup.sizing import Kept, blocks_of
from gpu_worker.startup.warmup import state_bytes, warm_up

_TOKENS = 16
_GROWING_TOKENS = 511  # and half of it: beyond the windows of own memories in use, which are 128 wide


def measure_kept(loaded: LoadedModel, block_size: int, form: Form | None = None) -> Kept:
    """Measures what a model keeps, and in which form off the device; raises PassFailed if it can't run.

    The caches that it does that with just fit, and are gone afterwards.

    A recurrence's state has one size however long the text. Only memories of a layer's own grow.
    """
    num_blocks = blocks_of(_TOKENS, block_size)
    runner = Runner(loaded, num_blocks, block_size, 0, form=form)
    warm_up(runner, range(num_blocks))
    rows = Kept(max(1, runner.cache.block_bytes), max(1, runner.cache.host_block_bytes))
    if loaded.own_layers is not None:
        return _measure_growing(loaded, block_size, rows)
    fixed_bytes = state_bytes(runner, range(num_blocks), min(_TOKENS, loaded.facts.max_model_len))
    return replace(rows, state_bytes=fixed_bytes)


def _measure_growing(loaded: LoadedModel, block_size: int, rows: Kept) -> Kept:
    long = min(_GROWING_TOKENS, loaded.facts.max_model_len)
    short = long // 2
    num_blocks = blocks_of(long, block_size)
    runner = Runner(loaded, num_blocks, block_size, 0)
    short_bytes, long_bytes = (state_bytes(runner, range(num_blocks), num_tokens) for num_tokens in (short, long))
    token_bytes = -((short_bytes - long_bytes) // (long - short))  # rounded up
    return replace(rows, grown_bytes=block_size * token_bytes, state_bytes=max(0, long_bytes - long * token_bytes))
