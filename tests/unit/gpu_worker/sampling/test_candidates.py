import math

import pytest
import torch

from gpu_worker.contract.commands import Sampling
from gpu_worker.sampling.candidates import Candidates, rank
from gpu_worker.sampling.draw import Draw
from gpu_worker.sampling.history import History
from gpu_worker.sampling.rules import Rules
from gpu_worker.sampling.sampler import NOT_FINITE, Choice, sample

LOGITS = torch.randn(4, 50, generator=torch.Generator().manual_seed(3))


def draw(num_candidates: int, rules: Rules | None = None, banned_ids: tuple[int, ...] = (), **more: object) -> Draw:
    return Draw(Sampling(num_candidates=num_candidates, **more), 0, banned_ids, rules)  # type: ignore[arg-type]


def test_the_best_tokens_come_first_each_row_as_many_as_it_asks_for() -> None:
    found = rank(LOGITS, [draw(num) for num in (3, 1, 50, 99)])
    assert [len(one.tokens) for one in found] == [3, 1, 50, 50]
    for row, one in enumerate(found):
        logprobs = LOGITS[row].log_softmax(-1)
        best = logprobs.topk(len(one.tokens))
        assert [token.token_id for token in one.tokens] == best.indices.tolist()
        assert [token.logprob for token in one.tokens] == pytest.approx(best.values.tolist())
        assert all(token.score == token.logprob for token in one.tokens)


def test_penalties_work_on_log_probabilities_as_in_transformers_beam_search() -> None:
    sampling = Sampling(num_candidates=50, repetition_penalty=2.0)
    seen = int(LOGITS[0].argmax())
    rules = Rules(sampling, History((), [seen]))
    (found,) = rank(LOGITS[:1], [Draw(sampling, 1, (), rules)])
    logprobs = LOGITS[0].log_softmax(-1)
    (token,) = [one for one in found.tokens if one.token_id == seen]
    assert token.logprob == pytest.approx(float(logprobs[seen]))
    assert token.score == pytest.approx(2 * float(logprobs[seen]))


def test_what_rules_exclude_is_no_candidate() -> None:
    sampling = Sampling(num_candidates=50, allowed_token_ids=(1, 2, 3))
    (found,) = rank(LOGITS[:1], [Draw(sampling, 0, (2,), Rules(sampling))])
    assert {token.token_id for token in found.tokens} == {1, 3}


def test_rows_that_sample_and_rows_that_are_ranked_go_together() -> None:
    first, second, third, fourth = sample(LOGITS, [draw(2), draw(0), draw(1), draw(0, temperature=1.0)])
    alone = [sample(LOGITS[row : row + 1], [one])[0] for row, one in ((1, draw(0)), (3, draw(0, temperature=1.0)))]
    assert isinstance(first, Candidates)
    assert isinstance(third, Candidates)
    assert (second, fourth) == tuple(alone)
    assert isinstance(second, Choice)


def test_rows_without_candidates_say_so_and_broken_ones_why() -> None:
    rows = LOGITS[:2].clone()
    rows[0, 5] = math.nan
    sampling = Sampling(num_candidates=2, allowed_token_ids=(7,))
    assert sample(rows, [draw(2), Draw(sampling, 0, (7,), Rules(sampling))]) == [NOT_FINITE, Candidates(())]
