"""Owns the call of torch's attention over sequences of different lengths: what is beneath `torch.nn.attention.varlen`.

    operator of     lengths of filled-up histories    block tables    number of splits
    torch 2.11      yes                               no              one, where a window is given, as it is here
    torch 2.13      yes                               yes             as asked

The public function of torch 2.11 takes none of the three, and knows no groups of heads, which the operator does.
"""

from typing import Any

import torch
from torch import Tensor

_OPERATOR = torch.ops.aten._flash_attention_forward.default


def attend_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    query_bounds: Tensor,
    history_bounds: Tensor | None,
    max_queries: int,
    max_length: int,
    scale: float,
    window: int | None,
    lengths: Tensor | None = None,
    block_table: Tensor | None = None,
    operator: Any = _OPERATOR,
) -> Tensor:
    """Attends causally, each sequence's queries standing at its end: (T, H, width).

    Args:
        q: (T, H, width) in half precision, sequences end to end.
        k: (rows, H_kv, width), or (num_blocks, block_size, H_kv, width) with a block table.
        v: Likewise.
        query_bounds: Where each sequence's queries begin, and the end of the last (N + 1,), int32.
        history_bounds: Likewise of k and v (N + 1,), int32; None with a block table.
        max_queries: Most queries of one sequence.
        max_length: Longest history, or what histories are filled up to.
        scale: Factor on the scores.
        window: Rows that a token sees, its own included; None is all.
        lengths: Rows of each history that count (N,), int32; None is all.
        block_table: Blocks of each history (N, blocks), int32.
        operator: torch's.

    Raises:
        Exception: Whatever the operator raises that can't do it: TypeError or RuntimeError, most of the time.
    """
    known = {argument.name for argument in operator._schema.arguments}
    asked: dict[str, Any] = {"seqused_k": lengths} if lengths is not None else {}
    if block_table is not None:
        asked["block_table"] = block_table
    if "num_splits" in known:
        asked["num_splits"] = 1  # sums in one order, whoever else is in the batch
    if unknown := asked.keys() - known:
        raise TypeError(f"torch {torch.__version__} attends without {', '.join(sorted(unknown))}")
    output: Tensor = operator(
        q,
        k,
        v,
        query_bounds,
        history_bounds,
        max_queries,
        max_length,
        0.0,  # no dropout
        window is None,  # causal; a window says that by itself
        False,  # nothing for debugging
        scale=scale,
        window_size_left=-1 if window is None else window - 1,
        window_size_right=0,
        **asked,
    )[0]
    return output
