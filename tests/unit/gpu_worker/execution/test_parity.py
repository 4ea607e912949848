"""Greedy output is that of transformers' generate, for every family, however it is batched, chunked and placed."""

from random import Random

import pytest

from tests.support.models.families import FAMILIES, generated
from tests.support.worker.worker_driver import Driver, loaded, random_prompts

PROMPTS = random_prompts((5, 23, 11))
NUM_TOKENS = 10


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sequence_alone_gets_the_tokens_of_generate(family: str) -> None:
    driver = Driver(loaded(family))
    story = driver.add(PROMPTS[1], NUM_TOKENS)
    driver.finish(story)
    assert story.token_ids == generated(family, PROMPTS, NUM_TOKENS)[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_prompts_of_different_lengths_gets_the_tokens_of_generate(family: str) -> None:
    driver = Driver(loaded(family))
    stories = [driver.add(prompt, NUM_TOKENS) for prompt in PROMPTS]
    driver.finish(*stories)
    assert tuple(story.token_ids for story in stories) == generated(family, PROMPTS, NUM_TOKENS)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_in_chunks_over_scattered_blocks_get_the_tokens_of_generate(family: str) -> None:
    driver = Driver(loaded(family), rng=Random(1))
    stories = [driver.add(prompt, NUM_TOKENS) for prompt in PROMPTS]
    driver.finish(*stories, chunk=4)
    assert tuple(story.token_ids for story in stories) == generated(family, PROMPTS, NUM_TOKENS)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_decodes_and_chunks_of_prompts_share_a_batch(family: str) -> None:
    driver = Driver(loaded(family), rng=Random(2))
    stories = [driver.add(prompt, NUM_TOKENS) for prompt in PROMPTS]
    for count in (1, 2):
        for _ in range(3):
            driver.advance(driver.start(*stories[:count], chunk=6))
    driver.finish(*stories, chunk=6)
    assert tuple(story.token_ids for story in stories) == generated(family, PROMPTS, NUM_TOKENS)


def test_a_context_of_several_sliding_windows_gets_the_tokens_of_generate() -> None:
    prompts = random_prompts((70,), seed=3)  # the window of this gpt_oss is 16
    driver = Driver(loaded("gpt_oss"), rng=Random(3))
    story = driver.add(prompts[0], NUM_TOKENS)
    driver.finish(story, chunk=24)
    assert story.token_ids == generated("gpt_oss", prompts, NUM_TOKENS)[0]
