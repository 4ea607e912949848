"""Chooses tokens from logits.

The draw is a function of the seed and of the index of the token in its sequence's output, and of nothing else: not of
the batch, not of what was drawn before. So a sequence that is resumed in another batch, or by another worker, goes on
as it would have. It knows no sequences and no model.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gpu_worker.contract.commands import Sampling
from gpu_worker.contract.results import TokenLogprob
from gpu_worker.machine.devices import to_device
from gpu_worker.sampling.candidates import Candidates, rank
from gpu_worker.sampling.draw import Draw
from gpu_worker.sampling.ruling import ruled

_MOST_NUMBERS = 1 << 23  # of logits at a time: filters take several copies of them in double precision
_MASK_64 = 2**64 - 1


class Choice(NamedTuple):
    """What was chosen.

    Attributes:
        token_id: The token.
        logprob: The natural logarithm of its probability under the logits as they are, before rules and filters.
        top: The most probable tokens under them, the most probable one first, as many as were asked for.
    """

    token_id: int
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


class NoChoice(NamedTuple):
    """Why nothing could be chosen."""

    reason: str


NOT_FINITE = NoChoice("its logits are not finite numbers: the model's output can't be sampled")
NOTHING_LEFT = NoChoice("its rules leave no token: structure, allowed tokens, bad words and min_tokens exclude all")


def sample(
    logits: Tensor, draws: Sequence[Draw], rows: Sequence[int] | None = None
) -> list[Choice | Candidates | NoChoice]:
    """Chooses a token for each draw, and waits for them; where candidates are asked for they are told instead.

    Rows are gathered in groups where they are many and long, so that all of them are never copied at once.

    Args:
        logits: Logits of the vocabulary's tokens, and of nothing else (R, V).
        draws: What is wanted.
        rows: The row of each draw; None: one draw a row, in order.
    """
    places = range(len(draws)) if rows is None else rows
    at_once = max(1, _MOST_NUMBERS // logits.shape[1])
    found: dict[int, Choice | Candidates | NoChoice] = {}
    for is_ranked, choose in ((False, _sample), (True, _rank)):
        own = [index for index, draw in enumerate(draws) if (draw.sampling.num_candidates > 0) is is_ranked]
        for group in (own[start : start + at_once] for start in range(0, len(own), at_once)):
            chosen = choose(_gathered(logits, [places[index] for index in group]), [draws[index] for index in group])
            found.update(zip(group, chosen, strict=True))
    return [found[index] for index in range(len(draws))]


def _gathered(logits: Tensor, rows: Sequence[int]) -> Tensor:
    """Rows of logits (B, V), which need no copy where they lie side by side."""
    first = rows[0]
    if list(rows) == list(range(first, first + len(rows))):
        return logits[first : first + len(rows)]
    return logits.index_select(0, to_device(torch.tensor(rows), logits.device))


def _rank(logits: Tensor, draws: Sequence[Draw]) -> list[Candidates | NoChoice]:
    rows = zip(rank(logits, draws), draws, logits, strict=True)
    return [one if one.tokens else _no_candidates(draw, bool(row.amax().isfinite())) for one, draw, row in rows]


def _no_candidates(draw: Draw, is_finite: bool) -> Candidates | NoChoice:
    """What is told where no candidate is left: none, unless that is a fault; other texts of its search may go on."""
    reason = _no_choice(draw, is_finite)
    return Candidates(()) if reason is NOTHING_LEFT else reason


def _sample(logits: Tensor, draws: Sequence[Draw]) -> list[Choice | NoChoice]:
    logits = logits.float()  # (B, V)
    changed = ruled(logits, draws)  # (B, V)
    token_ids = _choose(changed, draws)  # (B,)
    logprobs = logits.log_softmax(-1)  # (B, V)
    chosen = logprobs.gather(1, token_ids[:, None])[:, 0]  # (B,)
    is_finite = logits.amax(-1).isfinite()  # (B,)
    is_left = is_finite if changed is logits else changed.amax(-1).isfinite()  # (B,)
    columns = [token_ids.double(), chosen.double(), is_finite.double(), is_left.double()]
    rows = torch.stack(columns, dim=1).tolist()  # one wait for all
    tops = _tops(logprobs, draws)
    return [
        Choice(int(token_id), logprob, tops.get(row, ())) if finite and left else _no_choice(draws[row], bool(finite))
        for row, (token_id, logprob, finite, left) in enumerate(rows)
    ]


def _no_choice(draw: Draw, is_finite: bool) -> NoChoice:
    if not is_finite:
        return NOT_FINITE
    guide = None if draw.rules is None else draw.rules.guide
    problem = "" if guide is None else guide.problem
    return NoChoice(problem) if problem else NOTHING_LEFT


def _tops(logprobs: Tensor, draws: Sequence[Draw]) -> dict[int, tuple[TokenLogprob, ...]]:
    """The most probable tokens of each row of logprobs (B, V) that asks for any."""
    wishes = {row: draw.sampling.num_top_logprobs for row, draw in enumerate(draws) if draw.sampling.num_top_logprobs}
    if not wishes:
        return {}
    rows = to_device(torch.tensor(list(wishes)), logprobs.device)  # (T,)
    best = logprobs.index_select(0, rows).topk(min(max(wishes.values()), logprobs.shape[1]))  # (T, most) each
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return {
        row: tuple(TokenLogprob(*one) for one in zip(ids[:count], values[:count], strict=True))
        for (row, count), (ids, values) in zip(wishes.items(), pairs, strict=True)
    }


def _choose(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """The chosen tokens (B,)."""
    token_ids = logits.argmax(-1)  # (B,)
    drawing = [row for row, draw in enumerate(draws) if draw.sampling.temperature > 0]
    if not drawing:
        return token_ids
    chosen_draws = [draws[row] for row in drawing]
    drawing_rows = to_device(torch.tensor(drawing), logits.device)  # (D,)
    probabilities = _kept(logits.index_select(0, drawing_rows), [draw.sampling for draw in chosen_draws])  # (D, V)
    return token_ids.index_copy(0, drawing_rows, _draw(probabilities, chosen_draws))


def _kept(logits: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Probabilities (D, V) after temperature and filters, not normalized; the filters go in transformers' order.

    A row comes out the same whatever the others ask for: filters that it does not want keep all of it.
    """
    vocab_size = logits.shape[1]
    wishes = torch.tensor([(s.temperature, s.top_p, s.min_p, s.typical_p) for s in samplings], dtype=torch.float64)
    temperatures, top_ps, min_ps, typical_ps = to_device(wishes, logits.device)[:, :, None].unbind(1)  # (D, 1) each
    below_top = (logits - logits.amax(-1, keepdim=True)).double()  # (D, V), at most 0: no temperature can overflow it
    probabilities = (below_top / temperatures).softmax(-1)  # (D, V)
    top_ks = [s.top_k if 0 < s.top_k < vocab_size else vocab_size for s in samplings]
    if min(top_ks) < vocab_size:
        best = probabilities.topk(max(k for k in top_ks if k < vocab_size)).values  # (D, largest k)
        counts = to_device(torch.tensor(top_ks), logits.device)[:, None]  # (D, 1)
        kth = best.gather(1, counts.clamp(max=best.shape[1]) - 1)  # (D, 1)
        above, equal = probabilities > kth, probabilities == kth  # (D, V)
        among_equals = equal & (equal.cumsum(-1) <= counts - above.sum(-1, keepdim=True))  # the first of them
        probabilities = probabilities.where(above | among_equals | (counts == vocab_size), 0.0)
    if any(s.top_p < 1 for s in samplings):
        ordered, ids = probabilities.sort(descending=True, stable=True)  # (D, V)
        before = ordered.cumsum(-1) - ordered  # probability of the tokens ahead of each, (D, V)
        passes = (before < top_ps * ordered.sum(-1, keepdim=True)) | (top_ps >= 1)
        probabilities = torch.zeros_like(probabilities).scatter(1, ids, ordered.where(passes, 0.0))
    least = min_ps * probabilities.amax(-1, keepdim=True)  # (D, 1)
    probabilities = probabilities.where(probabilities >= least, 0.0)
    if any(s.typical_p < 1 for s in samplings):
        probabilities = _typical(probabilities, typical_ps)
    return probabilities


def _typical(probabilities: Tensor, masses: Tensor) -> Tensor:
    """Keeps of probabilities (D, V) the most typical ones that reach a mass (D, 1); a mass of 1 keeps all.

    A token is the more typical, the nearer its information is to the distribution's entropy. Source: arXiv 2202.00666.
    """
    shares = probabilities / probabilities.sum(-1, keepdim=True)  # (D, V)
    information = -shares.log()  # (D, V), infinite where filters took a token out
    entropy = (shares * information).nansum(-1, keepdim=True)  # (D, 1)
    distances, ids = (information - entropy).abs().sort(stable=True)  # (D, V)
    last = (shares.gather(1, ids).cumsum(-1) < masses).sum(-1, keepdim=True)  # (D, 1)
    passes = (distances <= distances.gather(1, last.clamp(max=shares.shape[1] - 1))) | (masses >= 1)  # (D, V)
    return torch.zeros_like(probabilities).scatter(1, ids, probabilities.gather(1, ids).where(passes, 0.0))


def _draw(probabilities: Tensor, draws: Sequence[Draw]) -> Tensor:
    """A token for each row of probabilities (D, V), by inverting their sum at a number that seed and index fix."""
    numbers = [uniform(draw.sampling.seed, draw.output_index) for draw in draws]
    sums = probabilities.cumsum(-1)  # (D, V)
    points = sums[:, -1:] * to_device(torch.tensor(numbers, dtype=torch.float64), sums.device)[:, None]  # (D, 1)
    ids = torch.arange(sums.shape[1], device=sums.device)[None]  # (1, V)
    last = ids.where(probabilities > 0, 0).amax(-1)  # (D,)
    return torch.searchsorted(sums, points, right=True)[:, 0].minimum(last)


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
