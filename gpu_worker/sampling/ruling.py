"""Changes rows of logits as their sequences' rules say: structures, tokens that may be chosen, biases, penalties.

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
from gpu_worker.sampling.history import History
from gpu_worker.sampling.rules import NEVER, Rules


def ruled(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Returns logits (B, V) with each row's rules applied; the argument itself where no row has any."""
    rows = [(row, draw.rules) for row, draw in enumerate(draws) if draw.rules is not None]
    banned = [(row, draw.banned_ids) for row, draw in enumerate(draws) if draw.banned_ids]
    if not rows and not banned:
        return logits
    logits = logits.clone()
    _keep_to_structures(logits, rows)
    _keep_allowed(logits, rows)
    _shift(logits, rows)
    _ban(logits, [*banned, *((row, tuple(rules.last_of_bad_words)) for row, rules in rows)])
    _penalize(logits, rows)
    return logits


Rows = Sequence[tuple[int, Rules]]
"""Rows of the logits that have rules, with those."""


def _keep_to_structures(logits: Tensor, rows: Rows) -> None:
    """Leaves the tokens that may come next in each row's structure; none where that can't be said."""
    guided = [(row, rules.guide) for row, rules in rows if rules.guide is not None]
    if not guided:
        return
    vocab_size = logits.shape[1]
    masks = to_device(
        _as_rows([guide.mask() for _, guide in guided], -(-vocab_size // 32)), logits.device
    )  # (G, words)
    bits = torch.arange(32, dtype=torch.int32, device=logits.device)  # (32,)
    allowed = ((masks[:, :, None] >> bits) & 1).bool().flatten(1)[:, :vocab_size]  # (G, V)
    places = to_device(torch.tensor([row for row, _ in guided]), logits.device)  # (G,)
    logits[places] = logits[places].where(allowed, NEVER)


def _as_rows(masks: Sequence[Tensor], num_words: int) -> Tensor:
    """Masks as rows of so many words (G, words); what one has no word for is not allowed."""
    rows = torch.zeros(len(masks), num_words, dtype=torch.int32)
    for row, mask in zip(rows, masks, strict=True):
        known = mask[:num_words]
        row[: len(known)] = known
    return rows


def _keep_allowed(logits: Tensor, rows: Rows) -> None:
    for row, rules in rows:
        if len(rules.allowed_ids):
            ids = rules.allowed_ids  # (A,)
            kept = logits[row, ids]  # (A,)
            logits[row] = NEVER
            logits[row, ids] = kept


def _shift(logits: Tensor, rows: Rows) -> None:
    """Adds what is added wherever a sequence stands: biases, and bad words of one token."""
    shifted = [(row, rules) for row, rules in rows if len(rules.shifted_ids)]
    if shifted:
        ids = torch.cat([rules.shifted_ids for _, rules in shifted])  # (S,)
        of_ids = _repeated([row for row, _ in shifted], [len(rules.shifted_ids) for _, rules in shifted])  # (S,)
        shifts = torch.cat([rules.shifts for _, rules in shifted])  # (S,)
        # A token may have a bias and be a bad word.
        logits.index_put_((to_device(of_ids, logits.device), ids), shifts, accumulate=True)


def _ban(logits: Tensor, banned: Sequence[tuple[int, Sequence[int]]]) -> None:
    """Takes out tokens that must not be chosen here."""
    pairs = [(row, token_id) for row, ids in banned for token_id in ids]
    if pairs:
        rows, ids = to_device(torch.tensor(pairs), logits.device).unbind(1)  # (banned,) each
        logits.index_put_((rows, ids), logits.new_full((), NEVER))


def _penalize(logits: Tensor, rows: Rows) -> None:
    """Makes tokens that a sequence has had less likely, or more."""
    penalized = [
        (row, rules.sampling, rules.history)
        for row, rules in rows
        if rules.history is not None and rules.sampling.has_penalties
    ]
    if not penalized:
        return
    histories: list[History] = [history for _, _, history in penalized]
    sizes = [len(history.token_ids) for history in histories]
    ids = torch.cat([history.token_ids for history in histories])  # (N,)
    counts = torch.cat([history.counts for history in histories])  # (N,)
    weights = torch.tensor([(s.repetition_penalty, s.presence_penalty, s.frequency_penalty) for _, s, _ in penalized])
    repetition, presence, frequency = weights.repeat_interleave(torch.tensor(sizes), dim=0).unbind(1)  # (N,) each
    taken = frequency * counts + presence * (counts > 0)  # (N,)
    factors, amounts = to_device(torch.stack([repetition, taken]), logits.device)  # (N,) each
    places = _places([row for row, _, _ in penalized], sizes, ids, logits)
    scores = logits[places]  # (N,)
    logits[places] = torch.where(scores > 0, scores / factors, scores * factors) - amounts


def _places(rows: Sequence[int], sizes: Sequence[int], ids: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Where tokens (N,) lie in the logits, of which each row has so many: rows and ids, (N,) each."""
    both = to_device(torch.stack([_repeated(rows, sizes), ids]), logits.device)  # (2, N)
    return both[0], both[1]


def _repeated(rows: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Rows, each as often as its size says (sum of sizes,)."""
    return torch.tensor(rows).repeat_interleave(torch.tensor(sizes))
