"""Attention with every score laid out, for what no fused kernel computes: biases, capped scores, sinks.

It knows no cache, no batch and no model.
"""

from torch import Tensor, cat, tanh


def attend_by_scores(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    *,
    hidden: Tensor | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Attends with scores and their softmax in float32.

    Args:
        q: (..., H, n, width).
        k: (..., H_kv, rows, width).
        v: (..., H_kv, rows, width of V).
        scale: Factor on the scores.
        hidden: Where a row is not seen, broadcast to (..., H, n, rows); None sees all.
        bias: Added to the scores (..., H, n, rows).
        softcap: What the scores are brought below by tanh, before anything is hidden.
        sinks: One more score for each query (..., H, n or 1) that takes weight and gives nothing.

    Returns:
        (..., H, n, width of V).
    """
    groups = q.shape[-3] // k.shape[-3]
    k, v = (rows.repeat_interleave(groups, dim=-3) for rows in (k, v))  # (..., H, rows, width)
    scores = (q.float() * scale) @ k.float().transpose(-2, -1)  # (..., H, n, rows)
    if bias is not None:
        scores = scores + bias
    if softcap is not None:
        scores = softcap * tanh(scores / softcap)
    if hidden is not None:
        scores = scores.masked_fill(hidden, float("-inf"))
    if sinks is None:
        return scores.softmax(-1).to(v.dtype) @ v
    sunk = sinks.float()[..., None].expand(*scores.shape[:-1], 1)  # (..., H, n, 1)
    return cat([scores, sunk], dim=-1).softmax(-1)[..., :-1].to(v.dtype) @ v
