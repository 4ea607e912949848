"""Attention of all sequences of a pass at once, on a device whose cache lies in pages.

There are three ways, of which the fastest that works is taken:

    paged     a kernel reads the pages by a block table                           half precision, a kernel that can
    packed    the same kernel over all rows, gathered end to end                  half precision
    padded    torch's fused attention: decodes side by side, prompts one by one   any type, attention sinks

Whether a kernel can is found out by trying it on a few rows and comparing: it differs with device, torch and head size,
and between batches and the decodes that graphs are made of, whose histories are filled up. None of the ways makes the
host wait. It knows no models.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache as remembered
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from gpu_worker.attention.scores import attend_by_scores
from gpu_worker.attention.varlen_kernel import attend_varlen
from gpu_worker.cache.block_table import BlockTable
from gpu_worker.cache.placement import Placement
from gpu_worker.cache.span import Span
from gpu_worker.cache.static_placement import StaticPlacement
from gpu_worker.errors import one_line
from gpu_worker.machine.devices import check_alive

logger = logging.getLogger(__name__)

_HALF = (torch.float16, torch.bfloat16)
_TRIAL_LENGTHS = ((3, 40), (1, 17), (5, 5))  # new rows and all rows: a chunk of a prompt, a decode, a prompt
_STATIC_TRIAL_LENGTHS = ((1, 40), (1, 17), (1, 1))  # and a row that stands for nobody
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
    heads = (q.shape[1:], pages.k.shape[1:], pages.v.shape[1:])
    return _way(q.device, q.dtype, *heads, pages.block_size, placement.is_static)(q, pages, placement, scores)


_Way = Callable[[Tensor, Pages, Placement, Scores], Tensor]


@remembered
def _way(
    device: torch.device,
    dtype: torch.dtype,
    q: torch.Size,
    k: torch.Size,
    v: torch.Size,
    block_size: int,
    is_static: bool,
) -> _Way:
    """The fastest way that works for heads of these shapes (H, width)."""
    if dtype in _HALF and k == v and device.type == "cuda":
        for way, instead in pairwise((_attend_paged, _attend_packed, _attend_padded)):
            reason = _try(way, device, dtype, q, k, block_size, is_static=is_static)
            of = f"{dtype} heads={tuple(q)} static={is_static}"
            if not reason:
                logger.info("attention way=%s of=%s", way.__name__, of)
                return way
            level = logging.INFO if instead is _attend_packed else logging.WARNING
            logger.log(level, "attention way=%s of=%s failed=%r instead=%s", way.__name__, of, reason, instead.__name__)
    return _attend_padded


def _try(
    way: _Way,
    device: torch.device,
    dtype: torch.dtype,
    q_heads: torch.Size,
    kv_heads: torch.Size,
    block_size: int,
    *,
    is_static: bool = False,
) -> str:
    """Why a way gives something else than the padded one for a few rows, or nothing if it does not."""
    random = torch.Generator().manual_seed(0)
    placement, num_slots = _trial_placement(block_size, device, is_static=is_static)
    k, v = (torch.randn(num_slots, *kv_heads, generator=random).to(device, dtype) for _ in "kv")
    pages = Pages(k, v, block_size)
    q = torch.randn(placement.num_rows, *q_heads, generator=random).to(device, dtype)
    for scores in (Scores(q.shape[-1] ** -0.5), Scores(q.shape[-1] ** -0.5, window=7)):
        expected = _attend_padded(q.float(), Pages(k.float(), v.float(), block_size), placement, scores)
        try:
            error = float((way(q, pages, placement, scores).float() - expected).abs().max())
        except Exception as failure:  # of a kernel, or of a torch that has no such argument
            check_alive(device, failure)
            return f"{type(failure).__name__}: {one_line(failure)}"
        if not error <= _TOLERANCE * float(expected.abs().max()):
            return f"off by {error:.2g}"
    return ""


def _trial_placement(block_size: int, device: torch.device, *, is_static: bool) -> tuple[Placement, int]:
    """A few sequences over scattered blocks, and the slots that there are."""
    lengths = _STATIC_TRIAL_LENGTHS if is_static else _TRIAL_LENGTHS
    blocks_each = -(-max(length for _, length in lengths) // block_size)
    num_blocks = blocks_each * len(lengths)
    spans: list[Span] = []
    for number, (num_new, length) in enumerate(lengths):
        table = BlockTable(number, block_size, device)
        table.place(list(range(number, num_blocks, len(lengths))))
        spans.append(Span(table, spans[-1].stop if spans else 0, num_new, length - num_new))
    if not is_static:
        return Placement(spans, block_size, device), num_blocks * block_size
    static = StaticPlacement(len(spans) + 1, blocks_each + 1, block_size, num_blocks, device)
    static.place(spans)
    return cast("Placement", static), (num_blocks + 1) * block_size


# ---- the ways


def _attend_paged(q: Tensor, pages: Pages, placement: Placement, scores: Scores) -> Tensor:
    """By block table."""
    k, v = pages.blocks
    return attend_varlen(
        q,
        k,
        v,
        query_bounds=placement.query_bounds,
        history_bounds=None,
        max_queries=placement.max_queries,
        max_length=placement.max_length,
        scale=scores.scale,
        window=scores.window,
        lengths=placement.lengths,
        block_table=placement.block_table,
    )


def _attend_packed(q: Tensor, pages: Pages, placement: Placement, scores: Scores) -> Tensor:
    """Over rows gathered end to end."""
    k, v = (rows.index_select(0, placement.history) for rows in (pages.k, pages.v))  # (rows, H_kv, width)
    return attend_varlen(
        q,
        k,
        v,
        query_bounds=placement.query_bounds,
        history_bounds=placement.history_bounds,
        max_queries=placement.max_queries,
        max_length=placement.max_length,
        scale=scores.scale,
        window=scores.window,
        lengths=placement.lengths if placement.is_static else None,
    )


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
        slots = placement.single_slots  # (S, longest)
        # (S, longest, H_kv, width)
        k, v = (
            lying.index_select(0, slots.flatten()).view(*slots.shape, *lying.shape[1:]) for lying in (pages.k, pages.v)
        )
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
