"""Rules hold in a model that runs in batches, is stopped and goes on elsewhere, as in transformers' `generate`."""

import re
from typing import Any

import pytest
import torch
from llguidance import LLMatcher

from gpu_worker.contract.commands import Sampling
from gpu_worker.model.loader import LoadedModel, adopt_model
from gpu_worker.model.tokenizer import TokenizerFacts
from tests.support.models.families import random_model
from tests.support.models.sample_tokenizers import EOS_ID
from tests.support.worker.guided import tokenizer
from tests.support.worker.worker_driver import GREEDY, Driver, loaded, random_prompts

NUM_TOKENS = 24
PENALTY = 1.4
FREE = Sampling(temperature=1.0, seed=7, presence_penalty=1.0, frequency_penalty=0.5)


PROMPTS = random_prompts((9, 17))


def tokens_of(story: Any) -> list[int]:
    return [token.token_id for token in story.outputs]


def expected(prompt: tuple[int, ...], **options: Any) -> list[int]:
    """What `generate` gives."""
    model, ids = random_model("mixtral"), torch.tensor([prompt])
    given = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NUM_TOKENS, do_sample=False, **options
    )
    return [int(token_id) for token_id in given[0, len(prompt) :]]


def test_greedy_tokens_with_penalties_and_bad_words_are_those_of_generate() -> None:
    driver = Driver(loaded())
    penalized = Sampling(repetition_penalty=PENALTY)
    plain = expected(PROMPTS[1])
    words = [[plain[0]], plain[3:5]]
    stories = [
        driver.add(PROMPTS[0], NUM_TOKENS, penalized, prompt_token_ids=tuple(set(PROMPTS[0]))),
        driver.add(PROMPTS[1], NUM_TOKENS, Sampling(bad_words=words)),
        driver.add(PROMPTS[1], NUM_TOKENS, GREEDY),
    ]
    driver.finish(*stories)
    assert tokens_of(stories[0]) == expected(PROMPTS[0], repetition_penalty=PENALTY)
    assert tokens_of(stories[0]) != expected(PROMPTS[0])
    assert tokens_of(stories[1]) == expected(PROMPTS[1], bad_words_ids=words)
    assert tokens_of(stories[2]) == plain


@pytest.mark.parametrize("sampling", [Sampling(repetition_penalty=PENALTY), FREE])
def test_a_sequence_that_is_added_again_from_its_output_goes_on_with_the_same_tokens(sampling: Sampling) -> None:
    seen = tuple(set(PROMPTS[0])) if sampling.repetition_penalty != 1 else ()
    whole = Driver(loaded())
    story = whole.add(PROMPTS[0], NUM_TOKENS, sampling, prompt_token_ids=seen)
    whole.finish(story)
    whole_tokens = tokens_of(story)
    half = tuple(whole_tokens[: NUM_TOKENS // 2])
    other = Driver(loaded())
    again = other.add(
        (*PROMPTS[0], *half),
        NUM_TOKENS,
        sampling,
        prompt_token_ids=seen,
        num_output_tokens=len(half),
        output_token_ids=half,
    )
    other.finish(again)
    assert tokens_of(again) == whole_tokens[len(half) :]


def guided_model() -> LoadedModel:
    """A tiny model that has a tokenizer."""
    facts = TokenizerFacts(tokenizer().to_str().encode(), eos_token_id=EOS_ID)
    return adopt_model(random_model("mixtral"), name="mixtral", tokenizer=facts)


def test_a_text_is_of_its_structure_wherever_it_goes_on() -> None:
    model = guided_model()
    sampling = Sampling(temperature=1.0, seed=11, grammar=LLMatcher.grammar_from_regex("([a-f]{3}-){2}[0-9]{2}"))
    whole = Driver(model)
    stories = [whole.add(PROMPTS[0], 64, sampling, stop_token_ids=(EOS_ID,)), whole.add(PROMPTS[1], 5, GREEDY)]
    whole.finish(*stories)
    tokens = tokens_of(stories[0])
    assert tokens[-1] == EOS_ID
    assert re.fullmatch("([a-f]{3}-){2}[0-9]{2}", tokenizer().decode(tokens[:-1]))
    half = tuple(tokens[:4])
    other = Driver(model)
    given = {"num_output_tokens": len(half), "output_token_ids": half, "stop_token_ids": (EOS_ID,)}
    again = other.add((*PROMPTS[0], *half), 64, sampling, **given)
    other.finish(again)
    assert tokens_of(again) == tokens[len(half) :]


def test_a_fork_counts_what_it_was_made_known_with() -> None:
    driver = Driver(loaded())
    parent = driver.add(PROMPTS[0], NUM_TOKENS, FREE)
    for _ in range(5):
        driver.advance(driver.start(parent))
    child = driver.fork(parent, NUM_TOKENS, FREE)
    driver.finish(parent, child)
    assert tokens_of(child) == tokens_of(parent)
