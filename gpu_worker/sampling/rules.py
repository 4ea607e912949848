"""Changes rows of logits as their sequences' rules say: tokens that may be chosen, biases, penalties.

The order is vLLM's: what may be chosen at all, biases, penalties; temperature and filters come behind, and are the
sampler's. A row comes out the same whatever the others ask for.

Sources: arXiv 1909.05858, section 4.1 (repetition penalty, as transformers applies it); OpenAI's API reference
(presence and frequency penalty, logit_bias).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gpu_worker.machine.devices import to_device
from gpu_worker.sampling.draw import Draw

_NEVER = float("-inf")


def ruled(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Returns logits (B, V) with each row's rules applied; the argument itself where no row has any."""
    if not any(draw.has_rules for draw in draws):
        return logits
    logits = logits.clone()
    _keep_to_structures(logits, draws)
    _keep_allowed(logits, draws)
    _shift(logits, draws)
    _penalize(logits, draws)
    return logits


def _keep_to_structures(logits: Tensor, draws: Sequence[Draw]) -> None:
    """Leaves the tokens that may come next in each row's structure; none where that can't be said."""
    guided = [(row, draw.guide) for row, draw in enumerate(draws) if draw.guide is not None]
    if not guided:
        return
    masks = to_device(torch.stack([guide.mask() for _, guide in guided]), logits.device)  # (G, words)
    bits = torch.arange(32, dtype=torch.int32, device=logits.device)  # (32,)
    allowed = ((masks[:, :, None] >> bits) & 1).bool().flatten(1)[:, : logits.shape[1]]  # (G, V)
    rows = to_device(torch.tensor([row for row, _ in guided]), logits.device)  # (G,)
    logits[rows] = logits[rows].where(allowed, _NEVER)


def _keep_allowed(logits: Tensor, draws: Sequence[Draw]) -> None:
    for row, draw in enumerate(draws):
        if draw.sampling.allowed_token_ids:
            ids = to_device(torch.tensor(draw.sampling.allowed_token_ids), logits.device)  # (A,)
            kept = logits[row, ids]  # (A,)
            logits[row] = _NEVER
            logits[row, ids] = kept


def _shift(logits: Tensor, draws: Sequence[Draw]) -> None:
    """Adds biases, and takes out tokens that must not be chosen."""
    shifts = [
        (row, token_id, shift)
        for row, draw in enumerate(draws)
        for token_id, shift in (*draw.sampling.logit_bias, *((token_id, _NEVER) for token_id in draw.all_banned_ids))
    ]
    if shifts:
        rows, ids, amounts = (list(each) for each in zip(*shifts, strict=True))
        places = to_device(torch.tensor([rows, ids]), logits.device)  # (2, S)
        logits.index_put_(
            tuple(places), to_device(torch.tensor(amounts, dtype=logits.dtype), logits.device), accumulate=True
        )


def _penalize(logits: Tensor, draws: Sequence[Draw]) -> None:
    """Makes tokens that a sequence has had less likely, or more."""
    penalized = [
        (row, draw.sampling, draw.history)
        for row, draw in enumerate(draws)
        if draw.history is not None and draw.sampling.has_penalties
    ]
    if not penalized:
        return
    ids = torch.cat([history.token_ids for _, _, history in penalized])  # (N,)
    counts = torch.cat([history.counts for _, _, history in penalized])  # (N,)
    sizes = torch.tensor([len(history.token_ids) for _, _, history in penalized])
    rows = torch.tensor([row for row, _, _ in penalized]).repeat_interleave(sizes)  # (N,)
    weights = torch.tensor([(s.repetition_penalty, s.presence_penalty, s.frequency_penalty) for _, s, _ in penalized])
    repetition, presence, frequency = weights.repeat_interleave(sizes, dim=0).unbind(1)  # (N,) each
    taken = frequency * counts + presence * (counts > 0)  # (N,)
    places = to_device(torch.stack([rows, ids]), logits.device)  # (2, N)
    factors, amounts = to_device(torch.stack([repetition, taken]), logits.device)  # (N,) each
    scores = logits[tuple(places)]  # (N,)
    logits[tuple(places)] = torch.where(scores > 0, scores / factors, scores * factors) - amounts
