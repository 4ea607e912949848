"""Columns of the head that are no tokens are never chosen, ranked or told: as if they were not there."""

from dataclasses import replace

import pytest
import torch

from gpu_worker.contract.commands import Sampling
from gpu_worker.model.loader import LoadedModel
from tests.support.models.families import random_model
from tests.support.worker.worker_driver import Driver, Story, loaded, random_prompts

NUM_TOKENS = 40  # the head has more than ten times as many columns
PROMPT = tuple(token_id % NUM_TOKENS for token_id in random_prompts((9,))[0])
MANY = 1000


def with_spare_columns() -> LoadedModel:
    whole = loaded()
    return replace(whole, facts=replace(whole.facts, vocab_size=NUM_TOKENS))


def story_of(sampling: Sampling, *, is_scored: bool = False) -> Story:
    driver = Driver(with_spare_columns())
    story = driver.add(PROMPT, 4, sampling, is_scored=is_scored)
    driver.finish(story)
    return story


def logprobs_behind(text: tuple[int, ...]) -> torch.Tensor:
    """Of the tokens alone (T, tokens)."""
    with torch.inference_mode():
        return random_model("mixtral")(torch.tensor([text])).logits[0, :, :NUM_TOKENS].log_softmax(-1)


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), *(Sampling(temperature=5.0, seed=seed) for seed in range(8)), Sampling(presence_penalty=1.0)],
)
def test_only_tokens_are_chosen_and_told_beside_them(sampling: Sampling) -> None:
    story = story_of(replace(sampling, num_top_logprobs=MANY))
    expected = logprobs_behind((*PROMPT, *story.token_ids))[len(PROMPT) - 1 :]
    for token, logprobs in zip(story.outputs, expected, strict=False):
        assert token.token_id < NUM_TOKENS
        assert token.logprob == pytest.approx(float(logprobs[token.token_id]), abs=1e-4)
        assert [one.token_id for one in token.top] == logprobs.argsort(descending=True).tolist()


def test_only_tokens_are_candidates() -> None:
    driver = Driver(with_spare_columns())
    story = driver.add(PROMPT, 4, Sampling(num_candidates=MANY))
    (token,) = driver.advance(driver.start(story)).tokens
    assert token.candidates is not None
    assert [one.token_id for one in token.candidates] == logprobs_behind(PROMPT)[-1].argsort(descending=True).tolist()


def test_tokens_of_prompts_are_ranked_among_tokens_alone() -> None:
    story = story_of(Sampling(num_prompt_alternatives=MANY), is_scored=True)
    (part,) = story.scored
    rows = logprobs_behind(PROMPT)[:-1]
    own = rows.gather(1, torch.tensor(PROMPT[1:])[:, None])
    assert list(part.ranks) == ((rows > own).sum(-1) + 1).tolist()
    torch.testing.assert_close(torch.tensor(part.logprobs), own[:, 0], atol=1e-4, rtol=0)
    assert list(part.alternative_ids) == rows.argsort(descending=True).flatten().tolist()
