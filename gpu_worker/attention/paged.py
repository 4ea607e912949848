"""Attention of all sequences of a pass at once, on a device whose cache lies in pages.

There are three ways, of which the fastest that works is taken:

    paged     torch's varlen_attn reads the pages by a block table                half precision, a kernel that can
    packed    varlen_attn over all rows, gathered end to end                      half precision
    padded    torch's fused attention: decodes side by side, prompts one by one   any type, attention sinks

Whether a kernel can is found out by trying it on a few rows and comparing: it differs with device, torch and head size. None
of the ways makes the host wait. It knows no models.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache as remembered
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from gpu_worker.attention.scores import attend_by_scores
from gpu_worker.cache.block_table import BlockTable
from gpu_worker.cache.placement import Placement
from gpu_worker.cache.span import Span

logger = logging.getLogger(__name__)

_HALF = (torch.float16, torch.bfloat16)
_TRIAL_LENGTHS = ((3, 40), (1, 17), (5, 5))  # new rows and all rows: a chunk of a prompt, a decode, a prompt
_TOLERANCE = 2e-2


@dataclass(frozen=True, slots=True)
class Pages:
    """K and V of one layer as they lie.

    Attributes:
        k: (num_slots, H_kv, width).
        v: (num_slots, H_kv, width of V).
        block_size: Slots in one block.
    """

    k: Tensor
    v: Tensor
    block_size: int

    @property
    def blocks(self) -> tuple[Tensor, Tensor]:
        """Both as (num_blocks, block_size, H_kv, width)."""
        k, v = (rows.view(-1, self.block_size, *rows.shape[1:]) for rows in (self.k, self.v))
        return k, v


@dataclass(frozen=True, slots=True)
class Scores:
    """How scores are made and limited.

    Attributes:
        scale: Factor on the scores.
        window: Rows that a token sees, its own included; None is all.
        sinks: Attention sinks (H,): one more score for each head that takes weight and gives nothing.
    """

    scale: float
    window: int | None = None
    sinks: Tensor | None = None


def attend_all(q: Tensor, pages: Pages, placement: Placement, scores: Scores) -> Tensor:
    """Attends for all rows of a pass; those of dropped sequences give zeros.

    Args:
        q: (T, H, width).
        pages: The layer's K and V, the pass's own rows among them.
        placement: Where the rows lie.
        scores: How scores are made.

    Returns:
        (T, H, width of V).
    """
    rows = placement.kept_rows
    kept = q if rows is None else q.index_select(0, rows)  # (kept rows, H, width)
    attended = _attend(kept, pages, placement, scores)  # (kept rows, H, width of V)
    if rows is None:
        return attended
    return attended.new_zeros(len(q), *attended.shape[1:]).index_copy_(0, rows, attended)


def _attend(q: Tensor, pages: Pages, placement: Placement, scores: Scores) -> Tensor:
    if scores.sinks is not None:
        return _attend_padded(q, pages, placement, scores)
    way = _way(q.device, q.dtype, q.shape[1:], pages.k.shape[1:], pages.v.shape[1:], pages.block_size)
    return way(q, pages, placement, scores)


_Way = Callable[[Tensor, Pages, Placement, Scores], Tensor]


@remembered
def _way(
    device: torch.device, dtype: torch.dtype, q: torch.Size, k: torch.Size, v: torch.Size, block_size: int
) -> _Way:
    """The fastest way that works for heads of these shapes (H, width)."""
    if dtype in _HALF and k == v and device.type == "cuda":
        for way in (_attend_paged, _attend_packed):
            reason = _try(way, device, dtype, q, k, block_size)
            logger.info("attention way=%s heads=%s works=%s", way.__name__, tuple(q), reason or "yes")
            if not reason:
                return way
    return _attend_padded


def _try(
    way: _Way, device: torch.device, dtype: torch.dtype, q_heads: torch.Size, kv_heads: torch.Size, block_size: int
) -> str:
    """Why a way gives something else than the padded one for a few rows, or nothing if it does not."""
    blocks_each = -(-max(length for _, length in _TRIAL_LENGTHS) // block_size)
    num_slots = blocks_each * len(_TRIAL_LENGTHS) * block_size
    random = torch.Generator().manual_seed(0)
    k, v = (torch.randn(num_slots, *kv_heads, generator=random).to(device, dtype) for _ in "kv")
    pages = Pages(k, v, block_size)
    spans: list[Span] = []
    for number, (num_new, length) in enumerate(_TRIAL_LENGTHS):
        table = BlockTable(number, block_size, device)
        table.place(list(range(number, blocks_each * len(_TRIAL_LENGTHS), len(_TRIAL_LENGTHS))))
        spans.append(Span(table, spans[-1].stop if spans else 0, num_new, length - num_new))
    placement = Placement(spans, block_size, device)
    q = torch.randn(placement.num_rows, *q_heads, generator=random).to(device, dtype)
    for scores in (Scores(q.shape[-1] ** -0.5), Scores(q.shape[-1] ** -0.5, window=7)):
        expected = _attend_padded(q.float(), Pages(k.float(), v.float(), block_size), placement, scores)
        try:
            error = float((way(q, pages, placement, scores).float() - expected).abs().max())
        except (RuntimeError, TypeError, ValueError, NotImplementedError, ImportError) as failure:
            return f"{type(failure).__name__}: {str(failure).splitlines()[0]}"
        if not error <= _TOLERANCE * float(expected.abs().max()):
            return f"off by {error:.2g}"
    return ""


# ------------------------------------------------------------------------------------------------------ the ways


def _attend_paged(q: Tensor, pages: Pages, placement: Placement, scores: Scores) -> Tensor:
    """By block table."""
    k, v = pages.blocks
    return _varlen(
        q, k, v, placement, scores, cu_seq_k=None, seqused_k=placement.lengths, block_table=placement.block_table
    )


def _attend_packed(q: Tensor, pages: Pages, placement: Placement, scores: Scores) -> Tensor:
    """Over rows gathered end to end."""
    k, v = (rows.index_select(0, placement.history) for rows in (pages.k, pages.v))  # (rows, H_kv, width)
    return _varlen(q, k, v, placement, scores, cu_seq_k=placement.history_bounds)


def _varlen(
    q: Tensor, k: Tensor, v: Tensor, placement: Placement, scores: Scores, *, cu_seq_k: Tensor | None, **paging: Any
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # an older torch has none

    out = varlen_attn(
        q,
        k,
        v,
        placement.query_bounds,
        cu_seq_k,
        placement.max_queries,
        placement.max_length,
        scale=scores.scale,
        window_size=(-1 if scores.window is None else scores.window - 1, 0),
        enable_gqa=q.shape[1] != k.shape[-2],
        num_splits=1,  # sums in one order, whoever else is in the batch
        **paging,
    )
    assert isinstance(out, Tensor)
    return out


def _attend_padded(q: Tensor, pages: Pages, placement: Placement, scores: Scores) -> Tensor:
    """Decodes side by side, filled up to the longest; prompts one by one."""
    output = q.new_zeros(len(q), q.shape[1], pages.v.shape[-1])  # (kept rows, H, width of V)
    start = 0
    for span, history in zip(placement.spans, placement.histories, strict=True):
        if span.num_tokens > 1:
            rows = slice(start, start + span.num_tokens)
            seen = _seen(span, scores.window, q.device)  # (n, rows)
            k, v = (lying.index_select(0, history)[None] for lying in (pages.k, pages.v))  # (1, rows, H_kv, width)
            output[rows] = _fused(q[None, rows], k, v, seen, scores)[0]
        start += span.num_tokens
    if placement.singles:
        k, v = (
            lying.index_select(0, placement.single_slots.flatten()).view(
                *placement.single_slots.shape, *lying.shape[1:]
            )
            for lying in (pages.k, pages.v)
        )  # (S, longest, H_kv, width)
        queries = q.index_select(0, placement.single_rows)[:, None]  # (S, 1, H, width)
        seen = placement.single_mask(scores.window)[:, None, None]  # (S, 1, 1, longest)
        output.index_copy_(0, placement.single_rows, _fused(queries, k, v, seen, scores)[:, 0])
    return output


def _seen(span: Span, window: int | None, device: torch.device) -> Tensor:
    """Which rows of its sequence each new row sees (n, rows)."""
    queries = torch.arange(span.first_position, span.length, device=device)[:, None]  # (n, 1)
    keys = torch.arange(span.length, device=device)[None]  # (1, rows)
    seen = keys <= queries
    return seen if window is None else seen & (keys > queries - window)


def _fused(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scores: Scores) -> Tensor:
    """Attends with q (B, n, H, width) over k and v (B, rows, H_kv, width), as a mask says: (B, n, H, width of V)."""
    q, k, v = (rows.transpose(1, 2) for rows in (q, k, v))  # (B, H, n, width)
    if scores.sinks is None:
        out = scaled_dot_product_attention(
            q, k, v, attn_mask=seen, scale=scores.scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        return out.transpose(1, 2)
    return attend_by_scores(q, k, v, scores.scale, hidden=~seen, sinks=scores.sinks[:, None]).transpose(1, 2)
