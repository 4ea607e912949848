"""Ranks the tokens that may follow, for whoever chooses among them: the scheduler, for beams.

Rules are applied to log-probabilities, where sampling applies them to logits: so transformers' beam search does, which
makes a difference to the repetition penalty alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gpu_worker.contract.results import Candidate
from gpu_worker.sampling.draw import Draw
from gpu_worker.sampling.ruling import ruled


class Candidates(NamedTuple):
    """The best tokens of one row, best first; none where its rules leave none."""

    tokens: tuple[Candidate, ...]


def rank(logits: Tensor, draws: Sequence[Draw]) -> list[Candidates]:
    """Returns the best tokens of each row of logits (B, V), as many as its draw asks for, and waits for them."""
    logprobs = logits.float().log_softmax(-1)  # (B, V)
    scores = ruled(logprobs, draws)  # (B, V)
    wanted = [min(draw.sampling.num_candidates, logits.shape[1]) for draw in draws]
    best = scores.topk(max(wanted))  # (B, most) each
    own = logprobs.gather(1, best.indices)  # (B, most)
    columns = torch.stack([best.indices.double(), own.double(), best.values.double()], dim=2)  # (B, most, 3)
    return [
        Candidates(
            tuple(Candidate(int(token), logprob, score) for token, logprob, score in row[:num] if _is_left(score))
        )
        for row, num in zip(columns.tolist(), wanted, strict=True)
    ]


def _is_left(score: float) -> bool:
    return score > float("-inf")  # false for NaN too
