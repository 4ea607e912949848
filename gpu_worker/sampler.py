"""Chooses tokens from logits.

The draw is a function of the seed and of the index of the token in its sequence's output, and of nothing else: not of the
batch, not of what was drawn before. So a sequence that is resumed in another batch, or by another worker, goes on as it would
have. It knows no sequences and no model.

Source: arXiv 2503.09304
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_worker.errors import PassFailed

_MASK_64 = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the tokens of a sequence are chosen.

    Attributes:
        temperature: Divides the logits; 0 takes the most probable token.
        top_k: Keeps the k most probable tokens; 0 keeps all.
        top_p: Keeps the smallest set of tokens whose probability reaches this; 1 keeps all.
        min_p: Keeps tokens at least this fraction as probable as the most probable one; 0 keeps all.
        seed: Makes the draws repeatable.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Draw:
    """One row's wish.

    Attributes:
        sampling: How to choose.
        output_index: Tokens that the sequence has generated before this one.
        banned_ids: Tokens that must not be chosen.
    """

    sampling: Sampling
    output_index: int
    banned_ids: tuple[int, ...] = ()


def sample(logits: Tensor, draws: Sequence[Draw]) -> list[tuple[int, float]]:
    """Chooses a token for each row of logits (B, V).

    Returns:
        For each row the token and the natural logarithm of its probability under the logits as they are.

    Raises:
        PassFailed: A row holds something that is no number, or no finite one at all.
    """
    logits = logits.float()  # (B, V)
    bad_rows = (~logits.amax(-1).isfinite()).nonzero().flatten().tolist()
    if bad_rows:
        raise PassFailed(f"logits of rows {bad_rows} are not finite numbers: the model's output can't be sampled")
    token_ids = _choose(logits, draws)  # (B,)
    logprobs = logits.log_softmax(-1).gather(1, token_ids[:, None])[:, 0]  # (B,)
    return list(zip(token_ids.tolist(), logprobs.tolist(), strict=True))


def _choose(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """The chosen tokens (B,)."""
    banning = [row for row, draw in enumerate(draws) if draw.banned_ids]
    if banning:
        logits = logits.clone()
        for row in banning:
            logits[row, list(draws[row].banned_ids)] = float("-inf")
    token_ids = logits.argmax(-1)  # (B,)
    for row, draw in enumerate(draws):
        if draw.sampling.temperature > 0:
            token_ids[row] = _draw(_kept(logits[row], draw.sampling), draw)
    return token_ids


def _kept(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities (V,) after temperature and filters, not normalized; the filters go in transformers' order."""
    below_top = (logits - logits.amax()).double()  # (V,), at most 0: the smallest temperature can't overflow it
    probabilities = (below_top / sampling.temperature).softmax(-1)  # (V,)
    if 0 < sampling.top_k < len(logits):
        values, ids = probabilities.topk(sampling.top_k)
        probabilities = torch.zeros_like(probabilities).scatter(0, ids, values)
    if sampling.top_p < 1:
        ordered, ids = probabilities.sort(descending=True, stable=True)  # (V,)
        before = ordered.cumsum(-1) - ordered  # probability of the tokens ahead of each, (V,)
        probabilities[ids[before >= sampling.top_p * ordered.sum()]] = 0.0
    if sampling.min_p > 0:
        probabilities = probabilities.where(probabilities >= sampling.min_p * probabilities.amax(), 0.0)
    return probabilities


def _draw(probabilities: Tensor, draw: Draw) -> Tensor:
    """One token with the given probabilities (V,), by inverting their sum at a number that seed and index fix."""
    sums = probabilities.cumsum(-1)  # (V,)
    point = sums[-1] * uniform(draw.sampling.seed, draw.output_index)
    return torch.searchsorted(sums, point, right=True).clamp(max=int(probabilities.nonzero()[-1]))


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) that looks random and depends on its arguments alone (splitmix64, the seed hashed first)."""
    mixed = _splitmix64(_splitmix64(seed & _MASK_64) + index & _MASK_64)
    return (mixed >> 11) * 2.0**-53


def _splitmix64(state: int) -> int:
    """One output of splitmix64 from a 64-bit state."""
    z = (state + 0x9E3779B97F4A7C15) & _MASK_64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return z ^ (z >> 31)
