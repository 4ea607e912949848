"""Tokens are chosen as asked, and a draw depends on the seed and the output index alone."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gpu_worker.contract.commands import Sampling
from gpu_worker.sampling.draw import Draw
from gpu_worker.sampling.sampler import NOT_FINITE, Choice, sample, uniform

PROBABILITIES = (0.5, 0.25, 0.15, 0.1)
LOGITS = torch.tensor([[math.log(p) for p in PROBABILITIES]])


def tokens_of(logits: torch.Tensor, draws: Sequence[Draw]) -> list[Choice]:
    """Samples where every row can be."""
    return [choice for choice in sample(logits, draws) if isinstance(choice, Choice)]


def _frequencies(sampling: Sampling, num_draws: int = 4000, banned: tuple[int, ...] = ()) -> list[float]:
    draws = [Draw(sampling, index, banned) for index in range(num_draws)]
    counts = [0] * len(PROBABILITIES)
    for token_id, _, _ in tokens_of(LOGITS.expand(num_draws, -1), draws):
        counts[token_id] += 1
    return [count / num_draws for count in counts]


def test_temperature_zero_takes_the_most_probable_token() -> None:
    assert tokens_of(LOGITS, [Draw(Sampling(temperature=0), 0)])[0][0] == 0


def test_temperature_one_draws_with_the_model_s_probabilities() -> None:
    assert _frequencies(Sampling(temperature=1, seed=1)) == pytest.approx(PROBABILITIES, abs=0.03)


def test_temperature_sharpens_or_flattens() -> None:
    squares = [p**2 for p in PROBABILITIES]
    expected = [s / sum(squares) for s in squares]
    assert _frequencies(Sampling(temperature=0.5, seed=2)) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(temperature=1, top_k=2, seed=3), (0, 1)),
        (Sampling(temperature=1, top_k=1, seed=3), (0,)),
        (Sampling(temperature=1, top_k=100, seed=3), (0, 1, 2, 3)),
        (Sampling(temperature=1, top_p=0.6, seed=3), (0, 1)),
        (Sampling(temperature=1, top_p=0.4, seed=3), (0,)),
        (Sampling(temperature=1, top_p=1e-9, seed=3), (0,)),
        (Sampling(temperature=1, min_p=0.4, seed=3), (0, 1)),
        (Sampling(temperature=1, min_p=1.0, seed=3), (0,)),
        (Sampling(temperature=1, top_k=3, top_p=0.8, seed=3), (0, 1)),  # 0.5 + 0.25 of the 0.9 that top_k left
        (Sampling(temperature=1e-6, seed=3), (0,)),
        (Sampling(temperature=5e-324, seed=3), (0,)),
    ],
)
def test_filters_keep_what_they_say_in_proportion(sampling: Sampling, kept: tuple[int, ...]) -> None:
    frequencies = _frequencies(sampling)
    assert {token for token, frequency in enumerate(frequencies) if frequency} == set(kept)
    if sampling.temperature == 1:
        total = sum(PROBABILITIES[token] for token in kept)
        expected = [p / total if token in kept else 0 for token, p in enumerate(PROBABILITIES)]
        assert frequencies == pytest.approx(expected, abs=0.03)


def test_among_equals_top_k_keeps_exactly_k() -> None:
    draws = [Draw(Sampling(temperature=1, top_k=2, seed=4), index) for index in range(200)]
    assert len({token_id for token_id, _, _ in tokens_of(torch.zeros(200, 8), draws)}) == 2


def test_a_draw_depends_on_seed_and_index_alone() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 100)
    draws = [Draw(Sampling(temperature=1, seed=seed), index) for seed, index in ((1, 0), (1, 5), (2, 0))]
    together = tokens_of(logits, draws)
    alone = [tokens_of(logits[row : row + 1], [draw])[0] for row, draw in enumerate(draws)]
    assert [choice.token_id for choice in together] == [choice.token_id for choice in alone]


def test_the_logprob_is_the_raw_one_whatever_is_filtered_or_banned() -> None:
    for sampling in (Sampling(), Sampling(temperature=0.3, top_k=2, seed=5)):
        ((token_id, logprob, _),) = tokens_of(LOGITS, [Draw(sampling, 0, (0,))])
        assert logprob == pytest.approx(math.log(PROBABILITIES[token_id]), abs=1e-6)


def test_banned_tokens_are_never_chosen_and_other_rows_not_touched() -> None:
    assert _frequencies(Sampling(temperature=1, seed=6), 500, banned=(0, 1))[:2] == [0, 0]
    chosen = tokens_of(LOGITS.expand(2, -1), [Draw(Sampling(), 0, (0,)), Draw(Sampling(), 0)])
    assert [choice.token_id for choice in chosen] == [1, 0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1, top_k=2, top_p=0.9, min_p=0.1, seed=3)])
def test_a_row_of_logits_that_are_no_finite_numbers_gets_no_token_and_the_others_theirs(
    value: float, sampling: Sampling
) -> None:
    logits = LOGITS.repeat(3, 1)
    logits[1, 2] = value
    first, broken, last = sample(logits, [Draw(sampling, 0)] * 3)
    assert broken is NOT_FINITE
    assert [first, last] == sample(LOGITS.repeat(2, 1), [Draw(sampling, 0)] * 2)


def test_tokens_that_the_model_rules_out_are_no_error() -> None:
    logits = LOGITS.clone()
    logits[0, 0] = -math.inf
    assert tokens_of(logits, [Draw(Sampling(), 0)])[0][0] == 1


def test_uniform_numbers_fill_their_range_evenly_and_negative_seeds_work() -> None:
    numbers = [uniform(seed, index) for seed in (-1, 0, 1, 2**63 - 1) for index in range(1000)]
    assert 0 <= min(numbers) < 0.01
    assert 0.99 < max(numbers) < 1
    assert sum(numbers) / len(numbers) == pytest.approx(0.5, abs=0.02)
    assert len(set(numbers)) == len(numbers)


def test_a_row_is_drawn_alike_whatever_others_in_the_batch_ask_for() -> None:
    random = torch.Generator().manual_seed(4)
    # Few bits, so that probabilities are equal at times.
    logits = torch.randn(6, 50, generator=random).bfloat16().float()
    draws = [
        Draw(Sampling(), 0),
        Draw(Sampling(temperature=0.7, seed=1), 1),
        Draw(Sampling(temperature=1.3, top_k=5, seed=2), 2, banned_ids=(3, 4)),
        Draw(Sampling(temperature=1.0, top_p=0.6, seed=3), 3),
        Draw(Sampling(temperature=2.0, top_k=20, top_p=0.9, min_p=0.02, seed=4), 4),
        Draw(Sampling(temperature=1.0, min_p=0.1, seed=5), 5),
    ]
    alone = [sample(row[None], [draw])[0] for row, draw in zip(logits, draws, strict=True)]
    assert tokens_of(logits, draws) == alone


def test_rows_are_drawn_alike_where_they_are_too_many_to_be_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(7, 50, generator=torch.Generator().manual_seed(2))
    draws = [Draw(Sampling(temperature=row % 3, top_p=0.9, seed=row), row) for row in range(7)]
    together = sample(logits, draws)
    monkeypatch.setattr("gpu_worker.sampling.sampler._MOST_NUMBERS", 120)
    assert sample(logits, draws) == together


def test_rows_of_many_draws_are_gathered_no_more_at_once_than_fit_and_drawn_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(2))
    rows = [0, *[2] * 40, 1]
    draws = [
        Draw(Sampling(temperature=index % 2, seed=index, num_candidates=2 * (index % 5 == 0)), 0) for index in rows
    ]
    draws = [replace(draw, output_index=index) for index, draw in enumerate(draws)]
    alone = [sample(logits[row : row + 1], [draw])[0] for row, draw in zip(rows, draws, strict=True)]
    copied: list[int] = []
    gather = Tensor.index_select
    monkeypatch.setattr(Tensor, "index_select", lambda *args: _noted(gather(*args), copied))
    monkeypatch.setattr("gpu_worker.sampling.sampler._MOST_NUMBERS", 400)
    assert sample(logits, draws, rows) == alone
    assert 0 < max(copied) <= 400


def test_rows_that_lie_side_by_side_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(9, 50, generator=torch.Generator().manual_seed(2))
    copied: list[int] = []
    gather = Tensor.index_select
    monkeypatch.setattr(Tensor, "index_select", lambda *args: _noted(gather(*args), copied))
    assert sample(logits, [Draw(Sampling(), 0)] * 7, range(2, 9)) == sample(logits[2:], [Draw(Sampling(), 0)] * 7)
    assert not copied


def _noted(tensor: Tensor, sizes: list[int]) -> Tensor:
    sizes.append(tensor.numel())
    return tensor
