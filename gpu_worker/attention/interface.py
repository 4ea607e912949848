"""Attention of a ragged batch: every sequence of one row of tokens attends to its own cached rows.

Registered in transformers' AttentionInterface, so any model that asks there for its attention can run. It knows the
cache view of the pass that is on stage (`forward.current_pass`) and nothing of models.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from gpu_worker.attention.paged import Pages, Scores, attend_all
from gpu_worker.attention.scores import attend_by_scores
from gpu_worker.attention.stage import AttentionStage, Rules, reader
from gpu_worker.passes.forward import current_pass

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

    A model that insists on a mask, because it reads it itself, gets one number in the shape of a mask (1, 1, q, kv);
    its modules that do so run sequence by sequence, and get the sequence's own there. So does one with a sliding
    window: some families tell it to nobody but the mask, and the mask tells `ragged_attention`.
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
    """Attends sequence by sequence; what the rows of dropped sequences give means nothing.

    Args:
        module: The model's attention layer; its layer_idx says which storage to read.
        query: (1, H, T, width) for the T tokens of all sequences.
        key: (1, H_kv, T, width), new rows only and already stored; for a latent layer
            (1, H, rows, width), all cached rows.
        value: As key.
        attention_mask: From stand_in_mask; only its window means something. A mask that a module made itself,
            which runs for one sequence at a time, hides rows of that one, or of those that a layer with a memory
            of its own gives.
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
    forward_pass = current_pass()
    cache = forward_pass.cache
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
    rules = Rules(
        scale,
        window,
        None if sinks is None else sinks[0, ..., 0],
        None if indices is None else indices[0],
        None if position_bias is None else position_bias[0],
        softcap,
    )
    output = query.new_zeros(query.shape[2], query.shape[1], value.shape[-1])  # (T, H, width of V)
    AttentionStage(forward_pass, query[0], reader(cache, layer, key, value), key.shape[1], rules, output).run()
    return output[None], None


def _attend_as_told(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, sinks: Tensor | None) -> Tensor:
    """Attends for one sequence, q (H, n, width) over k, v (H_kv, rows, width), mask (1, 1, n, rows): (n, H, width)."""
    attended = attend_by_scores(
        q,
        k,
        v,
        scale,
        bias=None if mask is None else mask[0],
        sinks=None if sinks is None else sinks[:, None],
    )
    return attended.transpose(0, 1)
