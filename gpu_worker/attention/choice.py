"""Finds out which arithmetic of attention this CPU runs fastest: torch's fused kernel, or products of `attention.cpu`.

    float32, 8 heads over 4, 64 wide            AMD EPYC                Intel Xeon, one thread (two)
    256 queries over 512 rows                   products                fused 2.9 ms, products 4.4 (2.6, 4.1)
    one query over 1,000 rows, 8 sequences      products                fused 1.7 ms, products 2.4 (0.9, 1.4)

The fused kernel leaves its products to the math library that torch was built with, which is fast on some CPUs only.
Both are measured once for each shape and number of threads, when an iteration first could use either: that is while
warming up. They take turns, and products are chosen where they are clearly faster, twice (`trials`). A single query is
measured on more rows than caches hold: between two layers' weights nothing stays there, and what is fastest from a
cache need not be so from memory.
"""

from functools import cache
from itertools import cycle

import torch
from torch import Tensor

from gpu_worker.attention.cpu import attend_fused, attend_in_tiles, attend_one_by_one
from gpu_worker.machine.onednn import can_multiply
from gpu_worker.machine.trials import is_clearly_less, least_times_s

_LEAST_TILED_WORK = 1 << 21  # multiplications for one K/V head that make up for starting the products of a tile
_LEAST_ROWS = 128  # rows that make up for starting those of a single query
_MANY_QUERIES = 256
_NUM_TOGETHER = 8  # sequences of a turn with single queries: short, and what calls cost is shared as in a batch
_NUM_ROWS = 512
_LEAST_BYTES = 1 << 27  # of K and V that single queries go through: no cache holds them from one turn to the next


def products_pay(query: Tensor, num_queries: int, num_rows: int, num_kv_heads: int, value_width: int) -> bool:
    """Whether `attend_in_tiles`, or for one query `attend_one_by_one`, is the faster way for one sequence.

    Args:
        query: Queries of all sequences (H, T, width).
        num_queries: Those of the sequence.
        num_rows: Rows that they see.
        num_kv_heads: Heads of K and V.
        value_width: Width of V.
    """
    H, _, width = query.shape
    if num_queries == 1:
        is_large = num_rows >= _LEAST_ROWS
    else:
        is_large = H // num_kv_heads * num_queries * num_rows * width >= _LEAST_TILED_WORK
    if not (is_large and query.device.type == "cpu" and can_multiply(query.dtype)):
        return False
    widths = (width, value_width)
    return _products_win(num_queries == 1, (H, num_kv_heads), widths, query.dtype, torch.get_num_threads())


@cache
def _products_win(
    is_single: bool, heads: tuple[int, int], widths: tuple[int, int], dtype: torch.dtype, _num_threads: int
) -> bool:
    """Measures both ways in turns with rows like these; the answer holds for the number of threads that is set."""
    (H, H_kv), (width, value_width), n = heads, widths, 1 if is_single else _MANY_QUERIES
    num_together = _NUM_TOGETHER if is_single else 1
    turn_bytes = num_together * H_kv * _NUM_ROWS * (width + value_width) * dtype.itemsize
    num_turns = -(-_LEAST_BYTES // turn_bytes) if is_single else 1
    q = torch.ones(H, n, width, dtype=dtype)
    mask = None if is_single else torch.zeros(n, _NUM_ROWS, dtype=dtype)
    all_k = torch.ones(num_turns, num_together, H_kv, _NUM_ROWS, width, dtype=dtype)
    all_v = torch.ones(num_turns, num_together, H_kv, _NUM_ROWS, value_width, dtype=dtype)
    turn = cycle([list(zip(*rows, strict=True)) for rows in zip(all_k, all_v, strict=True)])

    def by_products() -> None:
        if is_single:
            histories = [[rows] for rows in next(turn)]
            attend_one_by_one(q.transpose(0, 1).expand(num_together, H, -1), histories, H_kv, 1.0)
        else:
            attend_in_tiles(q, *next(turn)[0], scale=1.0, mask=None)

    def by_fused_kernel() -> None:
        for k, v in next(turn):
            attend_fused(q, k, v, 1.0, mask)

    return all(is_clearly_less(*least_times_s((by_products, by_fused_kernel))) for _ in range(2))
