"""Attention of a ragged batch: every sequence of one row of tokens attends to its own cached rows.

Registered in transformers' AttentionInterface, so any model that asks there for its attention can run. It knows the cache
view of the pass that is on stage (`forward.current_pass`) and nothing of models.

Source: arXiv 2503.09304
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from gpu_worker.attention_choice import products_pay
from gpu_worker.cpu_attention import attend_fused, attend_in_tiles, attend_one_by_one
from gpu_worker.forward import current_pass
from gpu_worker.paged_attention import Pages, Scores, attend_all
from gpu_worker.ragged import RaggedCache
from gpu_worker.score_attention import attend_by_scores
from gpu_worker.span import Span

NAME = "qllm_ragged"
_WINDOW = "qllm_window"  # attribute of a stand-in mask


def register() -> None:
    """Makes the attention known to transformers under NAME; doing it again changes nothing."""
    AttentionInterface.register(NAME, ragged_attention)
    AttentionMaskInterface.register(NAME, stand_in_mask)


def stand_in_mask(
    *_: Any,
    q_length: int = 1,
    kv_length: int = 1,
    allow_is_causal_skip: bool = True,
    local_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    **__: Any,
) -> Tensor | None:
    """Stands in for transformers' mask of one padded batch: each sequence gets its own here.

    A model that insists on a mask, because it reads it itself, gets one number in the shape of a mask (1, 1, q, kv); its
    modules that do so run sequence by sequence, and get the sequence's own there. So does one with a sliding window: some
    families tell it to nobody but the mask, and the mask tells `ragged_attention`.
    """
    if allow_is_causal_skip and local_size is None:
        return None
    return as_stand_in(
        torch.zeros(1, 1, 1, 1, dtype=dtype, device=device).expand(1, 1, q_length, kv_length), local_size
    )


def as_stand_in(mask: Tensor, window: int | None) -> Tensor:
    """Marks a mask as saying nothing that attention does not know, with the rows that a token sees, None for all."""
    setattr(mask, _WINDOW, window)
    return mask


def window_of(mask: Tensor | None) -> int | None:
    """The rows that a token sees by a stand-in mask, None for all."""
    return getattr(mask, _WINDOW, None)


def is_stand_in(mask: Tensor | None) -> bool:
    """Whether a mask is what stand_in_mask made, so that it says nothing which is not known here."""
    return mask is None or hasattr(mask, _WINDOW)


def ragged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    indices: Tensor | None = None,
    position_bias: Tensor | None = None,
    sinks: Tensor | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attends sequence by sequence; the rows of dropped sequences give zeros.

    Args:
        module: The model's attention layer; its layer_idx says which storage to read.
        query: (1, H, T, width) for the T tokens of all sequences.
        key: (1, H_kv, T, width), new rows only and already stored; for a latent layer (1, H, rows, width), all cached rows.
        value: As key.
        attention_mask: From stand_in_mask; only its window means something. A mask that a module made itself, which runs for one
            sequence at a time, hides rows of that one, or of those that a layer with a memory of its own gives.
        scaling: Factor on the scores; None is 1 / sqrt(width).
        sliding_window: Rows that a token sees, its own included; None is all.
        s_aux: Attention sinks (H,): one more score for each head that takes weight and gives nothing.
        indices: Rows (1, T, chosen) that an indexer chose for each token of the only sequence; None is all.
        position_bias: Added to the scores (1, H, T, rows) of the only sequence.
        sinks: As s_aux, one for each query too (1, H, T, 1).
        softcap: What the scores are brought below by tanh.

    Returns:
        (1, T, H, width of V), and None for the weights, which nobody asked for.
    """
    cache = current_pass().cache
    layer: int = module.layer_idx  # type: ignore[assignment]  # nn.Module types every attribute as Tensor | Module
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = sliding_window or window_of(attention_mask)
    if cache.is_own(layer) or not is_stand_in(attention_mask):
        if not (cache.is_own(layer) or cache.is_latent(layer)):
            key, value = (rows[None] for rows in cache.read_only(layer))  # (1, H_kv, rows, width)
        return _attend_as_told(query[0], key[0], value[0], attention_mask, scale, s_aux)[None], None
    is_usual = indices is None and position_bias is None and sinks is None and softcap is None
    if is_usual and (pages := cache.pages(layer)) is not None:
        scores = Scores(scale, window, s_aux)
        lying = Pages(*pages, cache.block_size)
        return attend_all(query[0].transpose(0, 1), lying, cache.placement, scores)[None], None
    if s_aux is not None:
        sinks = s_aux[None, :, None, None]  # (1, H, 1, 1)
    rules = _Rules(
        scale,
        window,
        None if sinks is None else sinks[0, ..., 0],
        None if indices is None else indices[0],
        None if position_bias is None else position_bias[0],
        softcap,
    )
    output = query.new_zeros(query.shape[2], query.shape[1], value.shape[-1])  # (T, H, width of V)
    _attend_each(cache, query[0], _reader(cache, layer, key, value), key.shape[1], rules, output)
    return output[None], None


def _attend_each(
    cache: RaggedCache, query: Tensor, read: "_Reader", num_kv_heads: int, rules: "_Rules", output: Tensor
) -> None:
    """Attends with query (H, T, width) sequence by sequence, single queries over long histories together, into output."""
    singles: list[tuple[Span, int]] = []
    shape = (num_kv_heads, output.shape[-1])
    for span in cache.spans:
        if span.dropped:
            continue
        start = _first_visible(span, rules.window)
        if span.num_tokens == 1 and rules.are_plain and products_pay(query, 1, span.length - start, *shape):
            singles.append((span, start))
            continue
        q = query[:, span.start : span.stop]  # (H, n, width)
        attended = _attend(cache, span, start, q, *read(span, start), rules.of(span))  # (H, n, width of V)
        output[span.start : span.stop] = attended.transpose(0, 1)
    if singles:
        rows = slice(None) if len(singles) == len(output) else [span.start for span, _ in singles]
        histories = (read(span, start) for span, start in singles)
        output[rows] = attend_one_by_one(query.transpose(0, 1)[rows], histories, num_kv_heads, rules.scale)


def _attend_as_told(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, sinks: Tensor | None) -> Tensor:
    """Attends for one sequence, q (H, n, width) over k and v (H_kv, rows, width), by a mask (1, 1, n, rows): (n, H, width)."""
    attended = attend_by_scores(
        q,
        k,
        v,
        scale,
        bias=None if mask is None else mask[0],
        sinks=None if sinks is None else sinks[:, None],
    )
    return attended.transpose(0, 1)


_Reader = Callable[[Span, int], tuple[Tensor, Tensor]]


def _reader(cache: RaggedCache, layer: int, key: Tensor, value: Tensor) -> _Reader:
    """What reads K and V (H_kv, rows, width) of a span's sequence, from some row to its last row of this pass."""
    if not cache.is_latent(layer):
        return lambda span, start: cache.read(layer, span, start)
    live = [span for span in cache.spans if not span.dropped]
    ends = dict(zip((span.start for span in live), accumulate(span.length for span in live), strict=True))

    def read(span: Span, start: int) -> tuple[Tensor, Tensor]:
        end = ends[span.start]
        rows = slice(end - span.length + start, end)
        return key[0, :, rows], value[0, :, rows]

    return read


def _first_visible(span: Span, window: int | None) -> int:
    """First row of the sequence that any token of the span sees."""
    return 0 if window is None else max(0, span.first_position - window + 1)


@dataclass(frozen=True, slots=True)
class _Rules:
    """How a layer attends.

    Attributes:
        scale: Factor on the scores.
        window: Rows that a token sees, its own included; None is all.
        sinks: Attention sinks (H, T or 1), if any; of one sequence (H, n or 1).
        chosen: Rows (n, chosen) that an indexer chose for each token of the only sequence; None is all.
        bias: Added to the scores (H, n, rows) of the only sequence, if any.
        softcap: What the scores are brought below by tanh, if anything.
    """

    scale: float
    window: int | None
    sinks: Tensor | None
    chosen: Tensor | None
    bias: Tensor | None
    softcap: float | None

    @property
    def are_plain(self) -> bool:
        """Whether they are a scale and a window and nothing else."""
        return all(rule is None for rule in (self.sinks, self.chosen, self.bias, self.softcap))

    def of(self, span: Span) -> "_Rules":
        """Those of one sequence."""
        if self.sinks is None or self.sinks.shape[1] == 1:
            return self
        return replace(self, sinks=self.sinks[:, span.start : span.stop])


def _attend(cache: RaggedCache, span: Span, start: int, q: Tensor, k: Tensor, v: Tensor, rules: _Rules) -> Tensor:
    """One sequence: q (H, n, width) over k and v (H_kv, rows, width), the rows from `start` to the last of q. (H, n, width)."""
    num_queries, num_rows = q.shape[1], k.shape[1]
    window = None if rules.window is None or num_rows <= rules.window else rules.window
    chosen = None if rules.chosen is None or rules.chosen.shape[-1] >= num_rows else rules.chosen
    is_scored = rules.bias is not None or rules.softcap is not None
    plain = rules.sinks is None and chosen is None and not is_scored
    if plain and num_queries > 1 and products_pay(q, num_queries, num_rows, len(k), v.shape[-1]):
        hidden = None if window is None else cache.mask(span, start, window, q.dtype, q.device)  # (n, rows)
        return attend_in_tiles(q, k, v, rules.scale, hidden)
    # One token sees all rows that were read. A prompt with nothing before it is what is_causal means.
    causal = 1 < num_queries == num_rows and window is None and chosen is None
    mask = None
    if chosen is not None:
        mask = _mask_of_chosen(cache.mask(span, start, window, q.dtype, q.device), chosen)  # (n, rows)
    elif num_queries > 1 and (is_scored or not causal):
        mask = cache.mask(span, start, window, q.dtype, q.device)  # (n, rows)
    if is_scored:
        bias = None if rules.bias is None else rules.bias[..., start:]  # (H, n, rows)
        hidden = None if mask is None else mask < 0  # (n, rows)
        return attend_by_scores(
            q, k, v, rules.scale, hidden=hidden, bias=bias, softcap=rules.softcap, sinks=rules.sinks
        )
    if rules.sinks is not None:
        return _attend_with_sinks(q, k, v, rules.sinks, mask, causal, rules.scale)
    return attend_fused(q, k, v, rules.scale, mask, causal=causal)


def _mask_of_chosen(mask: Tensor, chosen: Tensor) -> Tensor:
    """A mask (n, rows) that hides all rows but the chosen ones (n, chosen) too; those it hid before stay hidden."""
    hidden = torch.ones_like(mask, dtype=torch.bool).scatter_(1, chosen.long(), False)  # (n, rows)
    return mask.masked_fill(hidden, float("-inf"))


def _attend_with_sinks(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> Tensor:
    """As _attend, with sinks (H, n or 1): softmax over the scores and the sink is softmax over the scores, times a share.

    With lse the log of the summed exponentials of the scores, that share is exp(lse) / (exp(lse) + exp(sink)).
    """
    width = max(q.shape[-1], v.shape[-1])  # the kernel wants one width; zeros change no score
    wide_q, wide_k, wide_v = (pad(rows, (0, width - rows.shape[-1])) for rows in (q, k, v))
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        wide_q[None], wide_k[None], wide_v[None], 0.0, causal, attn_mask=mask, scale=scale
    )  # (1, H, n, width), (1, H, n)
    share = torch.sigmoid(lse[0] - sinks)  # (H, n)
    attended: Tensor = out[0, ..., : v.shape[-1]] * share[..., None].to(out.dtype)  # (H, n, width of V)
    return attended
