"""Tokens are drawn as often as transformers' own filters say they should be: a chi-squared test of thousands of draws.

Seeds are fixed, so that the outcome is, too: a test that passes once always does. The threshold is where a right
sampler would fail once in ten thousand seeds.
"""

from collections import Counter
from math import sqrt
from statistics import NormalDist

import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from gpu_worker.contract.commands import Sampling
from gpu_worker.sampling.draw import Draw
from gpu_worker.sampling.sampler import Choice, _kept, sample

NUM_DRAWS = 20_000
LOGITS = torch.randn(1, 60, generator=torch.Generator().manual_seed(5)) * 2
_LEAST_EXPECTED = 5.0  # of a cell: with less a count is not nearly normal
_LEVEL = 1 - 1e-4
SAMPLINGS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.5),
    Sampling(temperature=1.7),
    Sampling(temperature=1.0, top_k=7),
    Sampling(temperature=1.0, top_p=0.8),
    Sampling(temperature=1.0, min_p=0.05),
    Sampling(temperature=1.0, typical_p=0.6),
    Sampling(temperature=1.3, top_k=30, top_p=0.9, min_p=0.02, typical_p=0.9),
]


def expected(sampling: Sampling, logits: Tensor = LOGITS) -> Tensor:
    """Probabilities (rows, V) by transformers."""
    warpers = [
        (sampling.temperature != 1, TemperatureLogitsWarper, sampling.temperature),
        (sampling.top_k > 0, TopKLogitsWarper, sampling.top_k),
        (sampling.top_p < 1, TopPLogitsWarper, sampling.top_p),
        (sampling.min_p > 0, MinPLogitsWarper, sampling.min_p),
        (sampling.typical_p < 1, TypicalLogitsWarper, sampling.typical_p),
    ]
    processors = LogitsProcessorList([kind(value) for is_wanted, kind, value in warpers if is_wanted])
    ids = torch.zeros(len(logits), 1, dtype=torch.int64)
    return processors(ids, logits.double()).softmax(-1)


def chi_squared(counts: Counter[int], probabilities: Tensor) -> tuple[float, int]:
    """The statistic and its degrees of freedom; what is rarely expected counts together."""
    cells: list[tuple[float, float]] = []
    rest_seen = rest_expected = 0.0
    for token_id, probability in enumerate(probabilities.tolist()):
        if probability * NUM_DRAWS >= _LEAST_EXPECTED:
            cells.append((counts[token_id], probability * NUM_DRAWS))
        else:
            rest_seen, rest_expected = rest_seen + counts[token_id], rest_expected + probability * NUM_DRAWS
    if rest_expected >= _LEAST_EXPECTED:
        cells.append((rest_seen, rest_expected))
    return sum((seen - mean) ** 2 / mean for seen, mean in cells), len(cells) - 1


def most_likely(freedom: int) -> float:
    """What the statistic stays below in all but one of ten thousand cases (Wilson and Hilferty's approximation)."""
    share = 2 / (9 * freedom)
    return float(freedom * (1 - share + NormalDist().inv_cdf(_LEVEL) * sqrt(share)) ** 3)


def counts_of(sampling: Sampling, seed: int) -> Counter[int]:
    seeded = Sampling(**{**_fields(sampling), "seed": seed})
    draws = [Draw(seeded, index) for index in range(NUM_DRAWS)]
    choices = sample(LOGITS.expand(NUM_DRAWS, -1), draws)
    return Counter(choice.token_id for choice in choices if isinstance(choice, Choice))


def _fields(sampling: Sampling) -> dict[str, object]:
    return {name: getattr(sampling, name) for name in Sampling.__dataclass_fields__}


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_tokens_are_drawn_as_often_as_they_are_probable(sampling: Sampling) -> None:
    counts, probabilities = counts_of(sampling, 11), expected(sampling)[0]
    assert counts.total() == NUM_DRAWS
    assert all(probabilities[token_id] > 0 for token_id in counts)
    statistic, freedom = chi_squared(counts, probabilities)
    assert statistic < most_likely(freedom)


def test_a_temperature_that_is_a_little_off_is_noticed() -> None:
    counts = counts_of(Sampling(temperature=1.1), 11)
    statistic, freedom = chi_squared(counts, expected(Sampling(temperature=1.0))[0])
    assert statistic > most_likely(freedom)


@pytest.mark.parametrize("typical_p", [1e-6, 0.2, 0.5, 0.9, 0.999])
def test_typical_tokens_are_those_of_transformers_whatever_other_rows_ask_for(typical_p: float) -> None:
    logits = torch.randn(64, 200, generator=torch.Generator().manual_seed(9)) * 3
    wanted = Sampling(temperature=0.8, top_k=50, typical_p=typical_p)
    samplings = [wanted if row % 2 else Sampling(temperature=1.0) for row in range(64)]
    kept = _kept(logits, samplings)
    shares = kept / kept.sum(-1, keepdim=True)
    torch.testing.assert_close(shares[1::2], expected(wanted, logits)[1::2])
    torch.testing.assert_close(shares[::2], expected(Sampling(temperature=1.0), logits)[::2])
