"""The arithmetic of one sequence's attention: torch's fused kernel, or oneDNN's products on a CPU, many queries or one.

    rows of K     |0 . . . . . . . past|. . . n|        a tile of queries sees all rows before it and its own triangle
    queries  tile |▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓|◣          |
             tile |▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓|▓▓▓▓◣      |    what is right of the triangle is not computed

A single query's rows may lie in several runs, none of which is copied: its scores of all are under one softmax, or each
run is attended to by itself and weighed by what its scores sum up to.

Scores and their softmax are in float32 whatever the type, as in the fused kernel. Which of them is the fastest differs
from CPU to CPU: see `attention.choice`. It knows no cache, no batch and no model.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from gpu_worker.machine import onednn

_ROWS = 512  # of a product: more leave the caches, with fewer the calls take the time
_TILES = (128, 256)  # least and most queries of a tile

Runs = Sequence[tuple[Tensor, Tensor]]
"""K (H_kv, rows, width) and V (H_kv, rows, width of V) of one sequence, in pieces end to end."""


def attend_fused(
    q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None, *, causal: bool = False
) -> Tensor:
    """Attends by torch's fused kernel.

    Args:
        q: (H, n, width).
        k: (H_kv, rows, width).
        v: (H_kv, rows, width of V).
        scale: Factor on the scores.
        mask: (n, rows), added to the scores; None for none.
        causal: Whether n is rows, and each query sees those up to its own.

    Returns:
        (H, n, width of V).
    """
    (H, n, _), H_kv = q.shape, len(k)
    if n == 1 and mask is None:
        # The heads that share a K/V head become its queries: no copy of K and V, one product each.
        grouped = scaled_dot_product_attention(q.view(1, H_kv, H // H_kv, -1), k[None], v[None], scale=scale)
        return grouped.reshape(H, 1, -1)
    return scaled_dot_product_attention(
        q[None], k[None], v[None], attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=H_kv != H
    )[0]


def attend_in_tiles(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """Attends with many queries, by products that are fast where oneDNN has them for the type.

    Args:
        q: (H, n, width) of the last n rows.
        k: (H_kv, rows, width).
        v: (H_kv, rows, width of V).
        scale: Factor on the scores.
        mask: (n, rows), added to the scores in place of the causal one; None for that.

    Returns:
        (H, n, width of V).
    """
    H, n, width = q.shape
    H_kv, rows, _ = k.shape
    past = rows - n
    tile = min(max(_ROWS * H_kv // H, _TILES[0]), _TILES[1])
    grouped = (q.float() * scale).reshape(H_kv, H // H_kv, n, width)
    output = v.new_empty(H_kv, H // H_kv, n, v.shape[-1])
    triangle = torch.full((min(n, tile),) * 2, float("-inf")).triu_(1)  # (tile, tile)
    for start in range(0, n, tile):
        stop = min(start + tile, n)
        seen = past + stop
        for head in range(H_kv):
            scores = _product(grouped[head, :, start:stop], k[head, :seen].float())  # (H / H_kv, tile, seen)
            if mask is None:
                scores[..., past + start :] += triangle[: stop - start, : stop - start]
            else:
                scores += mask[start:stop, :seen]
            shares = scores.softmax(-1).to(v.dtype)  # (H / H_kv, tile, seen)
            output[head, :, start:stop] = _product(shares, v[head, :seen].t())  # (H / H_kv, tile, width of V)
    return output.view(H, n, -1)


def attend_fused_over(q: Tensor, runs: Runs, scale: float, sinks: Tensor | None = None) -> Tensor:
    """Attends with one query by torch's fused kernel, run by run.

    With lse the log of a run's summed exponentials of the scores, the run's share is softmax over lse and the sink.

    Args:
        q: (H, 1, width).
        runs: Of the rows that it sees, of one width.
        scale: Factor on the scores.
        sinks: One more score for each head (H, 1) that takes weight and gives nothing.

    Returns:
        (H, 1, width).
    """
    H, H_kv = len(q), len(runs[0][0])
    grouped = q.reshape(1, H_kv, H // H_kv, -1)
    attended = [flash(grouped, k[None], v[None], scale) for k, v in runs]  # (1, H_kv, H / H_kv, width) and lse of each
    logs = [lse for _, lse in attended]
    if sinks is not None:
        logs.append(sinks.to(logs[0].dtype).view_as(logs[0]))
    shares = torch.stack(logs).softmax(0)[: len(runs), ..., None]  # (runs, 1, H_kv, H / H_kv, 1)
    outputs = torch.stack([output for output, _ in attended])  # (runs, 1, H_kv, H / H_kv, width)
    return (outputs * shares).sum(0).to(q.dtype).view(H, 1, -1)


def flash(
    q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attends by torch's fused kernel, which then says what the scores sum up to too.

    Args:
        q: (1, H, n, width).
        k: (1, H_kv, rows, width).
        v: (1, H_kv, rows, width).
        scale: Factor on the scores.
        mask: (n, rows), added to the scores; None for none.
        causal: Whether n is rows, and each query sees those up to its own.

    Returns:
        (1, H, n, width), and the log of the summed exponentials of the scores (1, H, n).
    """
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal, attn_mask=mask, scale=scale
    )
    return out, lse


def attend_one_by_one(q: Tensor, histories: Iterable[Runs], num_kv_heads: int, scale: float) -> Tensor:
    """Attends with one query each in several sequences; a query sees all rows of its own.

    Args:
        q: (B, H, width).
        histories: Rows of each sequence, taken when it is its turn.
        num_kv_heads: H_kv.
        scale: Factor on the scores.

    Returns:
        (B, H, width of V).
    """
    # The heads that share a K/V head are its queries.
    scaled = (q.float() * scale).view(len(q), num_kv_heads, -1, q.shape[-1])  # (B, H_kv, H / H_kv, width)
    grouped = scaled.transpose(2, 3)  # (B, H_kv, width, H / H_kv)
    outputs = []
    for query, runs in zip(grouped.unbind(), histories, strict=True):
        # (H_kv, rows, H / H_kv): reads memory faster than its transpose does
        scores = _end_to_end([torch.bmm(k.float(), query) for k, _ in runs])
        shares = scores.transpose(1, 2).softmax(-1).to(runs[0][1].dtype)  # (H_kv, H / H_kv, rows)
        outputs.append(_weighed(shares, [v for _, v in runs]))  # (H_kv, H / H_kv, width of V)
    return torch.stack(outputs).flatten(1, 2)


def _end_to_end(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def _weighed(shares: Tensor, values: Sequence[Tensor]) -> Tensor:
    """The sum of rows of V (H_kv, rows, width), in pieces, by their shares (H_kv, n, all rows): (H_kv, n, width)."""
    parts = torch.split(shares, [v.shape[1] for v in values], dim=-1)
    total = torch.bmm(parts[0], values[0])
    for part, v in zip(parts[1:], values[1:], strict=True):
        total = total + torch.bmm(part, v)
    return total


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """Multiplies x (..., in) by the transpose of weight (out, in): (..., out)."""
    return onednn.product(x, weight) if onednn.can_multiply(weight.dtype) else linear(x, weight)
