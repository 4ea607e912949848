"""A row's logits change as its rules say, and as transformers or OpenAI's formulas say where they have such rules."""

import math
from typing import Any

import pytest
import torch
from transformers import (
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from gpu_worker.contract.commands import Sampling
from gpu_worker.sampling.draw import Draw
from gpu_worker.sampling.history import History
from gpu_worker.sampling.rules import Rules
from gpu_worker.sampling.ruling import ruled
from gpu_worker.sampling.sampler import NOTHING_LEFT, Choice, sample

VOCAB_SIZE = 40
LOGITS = torch.randn(1, VOCAB_SIZE, generator=torch.Generator().manual_seed(1))
PROMPT = (3, 5, 5, 8)
OUTPUT = (9, 5, 9, 12, 9)
TOKENS = torch.tensor([[*PROMPT, *OUTPUT]])


def draw_of(history: History | None = None, banned: tuple[int, ...] = (), **fields: Any) -> Draw:
    sampling = Sampling(**fields)
    return Draw(sampling, len(OUTPUT), banned, Rules(sampling, history) if sampling.has_rules else None)


def history() -> History:
    return History(set(PROMPT), OUTPUT)


@pytest.mark.parametrize("penalty", [0.5, 1.3, 7.0])
def test_repetition_penalty_is_transformers_one(penalty: float) -> None:
    expected = RepetitionPenaltyLogitsProcessor(penalty)(TOKENS, LOGITS.clone())
    assert torch.equal(ruled(LOGITS, [draw_of(history(), repetition_penalty=penalty)]), expected)


def test_presence_and_frequency_penalty_are_openais_formula_over_the_output_alone() -> None:
    expected = LOGITS.clone()
    for token_id, count in ((9, 3), (5, 1), (12, 1)):
        expected[0, token_id] -= 0.4 * count + 0.7
    changed = ruled(LOGITS, [draw_of(History((), OUTPUT), presence_penalty=0.7, frequency_penalty=0.4)])
    torch.testing.assert_close(changed, expected)


def test_bad_words_are_transformers_ones() -> None:
    words = [[4], [9, 2], [12, 9, 1], [9, 12, 3]]  # the output ends with 12, 9
    expected = NoBadWordsLogitsProcessor(words)(TOKENS, LOGITS.clone())
    changed = ruled(LOGITS, [draw_of(history(), bad_words=words)])
    assert torch.equal(changed, expected)
    assert [token_id for token_id in range(VOCAB_SIZE) if changed[0, token_id] == -math.inf] == [1, 2, 4]


def test_biases_are_transformers_ones() -> None:
    expected = SequenceBiasLogitsProcessor([[[2], 1.5], [[30], -4.0]])(TOKENS, LOGITS.clone())
    torch.testing.assert_close(ruled(LOGITS, [draw_of(logit_bias=((2, 1.5), (30, -4.0)))]), expected)


def test_a_bad_word_of_one_token_stays_one_whatever_its_bias() -> None:
    changed = ruled(LOGITS, [draw_of(bad_words=((2,),), logit_bias=((2, 100.0), (3, 1.0)))])
    assert changed[0, 2] == -math.inf
    assert changed[0, 3] == LOGITS[0, 3] + 1


def test_nothing_but_allowed_tokens_is_left() -> None:
    changed = ruled(LOGITS, [draw_of(allowed_token_ids=(7, 2))])
    assert changed[0, [2, 7]].tolist() == LOGITS[0, [2, 7]].tolist()
    assert changed.isfinite().sum() == 2


def test_a_history_that_grows_counts_as_one_that_is_given() -> None:
    grown = History(set(PROMPT))
    many = [*OUTPUT, *range(VOCAB_SIZE), *range(1000, 1200)]
    for token_id in many:
        grown.append(token_id)
    given = History(set(PROMPT), many)
    assert torch.equal(grown.token_ids, given.token_ids)
    assert torch.equal(grown.counts, given.counts)
    assert grown.follows((1198, 1199))
    assert not grown.follows((1199, 1198))


def test_rows_change_alike_whatever_the_others_ask_for() -> None:
    draws = [
        draw_of(),
        draw_of(history(), repetition_penalty=1.5, presence_penalty=0.1),
        draw_of(History((), OUTPUT), frequency_penalty=-0.5, logit_bias=((9, 2.0), (0, -1.0))),
        draw_of(allowed_token_ids=(1, 2, 3), bad_words=((2,),)),
        draw_of(banned=(6,)),
    ]
    rows = torch.randn(len(draws), VOCAB_SIZE, generator=torch.Generator().manual_seed(2))
    before = rows.clone()
    alone = [ruled(row[None], [draw])[0] for row, draw in zip(rows, draws, strict=True)]
    assert torch.equal(ruled(rows, draws), torch.stack(alone))
    assert torch.equal(rows, before)  # what the probabilities are told from


def test_probabilities_are_told_as_the_model_gives_them_whatever_the_rules() -> None:
    (choice,) = sample(LOGITS, [draw_of(allowed_token_ids=(7,), num_top_logprobs=3)])
    assert isinstance(choice, Choice)
    logprobs = LOGITS.log_softmax(-1)[0]
    assert choice.token_id == 7
    assert choice.logprob == pytest.approx(logprobs[7].item())
    best = logprobs.topk(3)
    assert [one.token_id for one in choice.top] == best.indices.tolist()
    assert [one.logprob for one in choice.top] == pytest.approx(best.values.tolist())


def test_each_row_gets_as_many_alternatives_as_it_asks_for() -> None:
    choices = sample(LOGITS.repeat(3, 1), [draw_of(num_top_logprobs=count) for count in (0, 5, 2)])
    assert [len(choice.top) for choice in choices if isinstance(choice, Choice)] == [0, 5, 2]


def test_rules_that_leave_nothing_are_said_to() -> None:
    for fields in ({"allowed_token_ids": (4,), "bad_words": ((4,),)}, {"allowed_token_ids": (4,), "banned": (4,)}):
        assert sample(LOGITS, [draw_of(**fields)]) == [NOTHING_LEFT]
