"""Plans how decodes are cut into CUDA graphs: for how many sequences each is made, and how many layers one spans.

Numbers only; it knows no graphs.
"""

from collections.abc import Sequence
from math import floor

_ROUNDING = 1e-9  # a layer that fits exactly, fits


def batch_sizes(largest: int) -> tuple[int, ...]:
    """Numbers of sequences to make graphs for, rising: powers of two, and steps of 16 from 32 on."""
    sizes = [1, 2, 4, 8, 16, *range(32, largest + 1, 16)]
    return tuple(size for size in sizes if size <= largest)


def plan_segments(num_layers: int, layer_ms: float, run_ahead_ms: float) -> tuple[range, ...]:
    """Cuts layers into as few segments as may be, each of a length that fits, the longest first.

    Args:
        num_layers: Layers of the model.
        layer_ms: How long one takes.
        run_ahead_ms: Longest work that nothing can stop; one layer is always a segment.

    Returns:
        The layers of each segment, in order, all of the same number or one fewer.
    """
    fitting = num_layers
    if num_layers * layer_ms > run_ahead_ms:
        fitting = max(1, floor(run_ahead_ms / layer_ms + _ROUNDING))
    count = -(-num_layers // fitting)
    lengths = [num_layers // count + (number < num_layers % count) for number in range(count)]
    return _ranges(lengths)


def _ranges(lengths: Sequence[int]) -> tuple[range, ...]:
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    return tuple(range(start, start + length) for start, length in zip(starts, lengths, strict=True))
