"""Sequences that begin alike share blocks: their tokens are those that each has alone, and shared rows never change."""

from functools import cache
from random import Random

import pytest
import torch

from gpu_worker.cache.unified import Layout
from gpu_worker.contract.commands import Sampling
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.errors import CommandRefused
from tests.support.models.families import generated
from tests.support.worker.worker_driver import Driver, Story, loaded, random_prompts

BLOCK_SIZE = 4
PROMPTS = random_prompts((9, 14, 6, 3, 11, 5))
NUM_TOKENS = 6
# Plain K/V, latents, states of a recurrence, an indexer, and layers with a memory of their own.
FAMILIES = ["mixtral", "deepseek_v3", "qwen3_next", "glm_moe_dsa", "deepseek_v4"]


def rows_of(driver: Driver, block_id: int) -> list[torch.Tensor]:
    """Everything that the cache holds in a block, copied."""
    first = block_id * BLOCK_SIZE
    stores = driver.runner.cache._stores.values()
    return [one[:, first : first + BLOCK_SIZE].clone() for store in stores for one in store]


@cache
def goes_on(
    prompt: tuple[int, ...], begun: tuple[int, ...], sampling: Sampling, num_tokens: int = NUM_TOKENS
) -> tuple[int, ...]:
    """What a sequence that shares nothing generates behind a prompt and the tokens that it began with."""
    driver = Driver(loaded())
    story = driver.add([*prompt, *begun], num_tokens, sampling, num_output_tokens=len(begun))
    driver.finish(story)
    return story.token_ids


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_a_sequence_that_shares_its_first_blocks_computes_the_rest_and_has_the_tokens_of_one_that_does_not(
    family: str,
) -> None:
    driver = Driver(loaded(family), rng=Random(1))
    (expected,) = generated(family, (PROMPTS[1],), NUM_TOKENS)
    first = driver.add(PROMPTS[1], NUM_TOKENS)
    driver.advance(driver.start(first))
    shared = first.block_ids[:3]
    before = [rows_of(driver, block_id) for block_id in shared]
    second = driver.add(PROMPTS[1], NUM_TOKENS, shared=shared)
    outcome = driver.advance(driver.start(second))
    assert outcome.timing.attention_tokens == 2 * driver.end.layer
    driver.finish(first, second)
    driver.drop(first)
    third = driver.add(PROMPTS[1], NUM_TOKENS, shared=shared)  # held by the second alone now
    driver.finish(third)
    assert [story.token_ids for story in (first, second, third)] == [expected] * 3
    for block_id, rows in zip(shared, before, strict=True):
        assert all(map(torch.equal, rows_of(driver, block_id), rows))
    driver.check_nothing_left()


def test_rows_of_a_block_that_nobody_holds_any_more_may_be_shared() -> None:
    driver = Driver(loaded())
    first = driver.add(PROMPTS[0], NUM_TOKENS)
    driver.advance(driver.start(first))
    shared = first.block_ids[:2]
    driver.drop(first)
    second = driver.add(PROMPTS[0], NUM_TOKENS, shared=shared)
    driver.finish(second)
    assert second.token_ids == generated("mixtral", (PROMPTS[0],), NUM_TOKENS)[0]
    driver.check_nothing_left()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_before", [0, 1, 4])
def test_forked_sequences_go_on_as_their_parent_does_wherever_it_stands(family: str, num_before: int) -> None:
    driver = Driver(loaded(family), rng=Random(num_before))
    (expected,) = generated(family, (PROMPTS[4],), NUM_TOKENS)
    parent = driver.add(PROMPTS[4], NUM_TOKENS)
    for _ in range(num_before):
        driver.advance(driver.start(parent))
    if not num_before:
        driver.advance(driver.start(parent, chunk=7))  # inside of the prompt, and of a block
    child = driver.fork(parent, NUM_TOKENS)
    grandchild = driver.fork(child, NUM_TOKENS)
    driver.finish(child)
    driver.finish(parent, grandchild)
    assert [story.token_ids for story in (parent, child, grandchild)] == [expected] * 3
    driver.check_nothing_left()


def test_forks_in_pages_and_their_return_to_blocks_that_others_kept_change_no_token() -> None:
    driver = Driver(loaded(), rng=Random(6), layout=Layout.PAGES)
    parent = driver.add(PROMPTS[0], NUM_TOKENS)
    driver.advance(driver.start(parent))
    child = driver.fork(parent, NUM_TOKENS)
    driver.offload(child)
    driver.finish(driver.add(PROMPTS[1], 1))
    driver.restore(child, parent.block_ids[:2])
    driver.finish(parent, child)
    assert parent.token_ids == child.token_ids == generated("mixtral", (PROMPTS[0],), NUM_TOKENS)[0]
    driver.check_nothing_left()


def test_a_fork_of_a_sequence_at_a_blocks_end_copies_nothing() -> None:
    driver = Driver(loaded())
    parent = driver.add(PROMPTS[0], NUM_TOKENS)
    driver.advance(driver.start(parent, chunk=8))
    child = driver.fork(parent, NUM_TOKENS)
    assert child.block_ids == parent.block_ids
    driver.finish(parent, child)
    assert parent.token_ids == child.token_ids == generated("mixtral", (PROMPTS[0],), NUM_TOKENS)[0]


def test_a_child_samples_by_its_own_seed() -> None:
    driver = Driver(loaded())
    warm = [Sampling(temperature=1.0, seed=seed) for seed in (7, 8)]
    parent = driver.add(PROMPTS[0], NUM_TOKENS, warm[0])
    for _ in range(2):
        driver.advance(driver.start(parent))
    other, same = driver.fork(parent, NUM_TOKENS, warm[1]), driver.fork(parent, 8, warm[0])
    driver.finish(parent, other, same)
    assert parent.token_ids == goes_on(PROMPTS[0], (), warm[0])
    assert same.token_ids == goes_on(PROMPTS[0], (), warm[0], 8)
    begun = parent.token_ids[:2]
    assert other.token_ids[:2] == begun
    assert other.token_ids[2:] == goes_on(PROMPTS[0], begun, warm[1])


@pytest.mark.parametrize("num_shared", [0, 1, 2])
def test_an_offloaded_sequence_comes_back_to_the_blocks_that_others_kept(num_shared: int) -> None:
    driver = Driver(loaded(), rng=Random(3))
    parent = driver.add(PROMPTS[0], NUM_TOKENS)
    driver.advance(driver.start(parent))
    child = driver.fork(parent, NUM_TOKENS)
    kept = parent.block_ids[:num_shared]
    driver.offload(child)
    taker = driver.add(PROMPTS[1], 1)
    driver.finish(taker)
    driver.restore(child, kept)
    assert child.block_ids[:num_shared] == kept
    driver.finish(parent, child)
    assert parent.token_ids == child.token_ids == generated("mixtral", (PROMPTS[0],), NUM_TOKENS)[0]
    driver.check_nothing_left()


def test_a_fork_that_cannot_be_is_refused_and_changes_nothing() -> None:
    driver = Driver(loaded())
    parent, child = driver.add(PROMPTS[0], NUM_TOKENS), driver.add(PROMPTS[0], NUM_TOKENS)
    batch_id = driver.start(parent)
    driver.advance(batch_id, until=Cursor(1, Stage.EXPERTS, 2))
    with pytest.raises(CommandRefused, match="it can't be forked"):
        driver.runner.fork_sequence(child.seq_id, parent.seq_id, [60])
    driver.advance(batch_id)
    for new_block_ids in ([], [60, 61], parent.block_ids[:1]):
        with pytest.raises(CommandRefused):
            driver.runner.fork_sequence(child.seq_id, parent.seq_id, new_block_ids)
    driver.finish(parent, child)
    assert parent.token_ids == child.token_ids


class Family:
    """A random history of one sequence and its descendants, some greedy, some with seeds of their own."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.prompt = self.rng.choice(PROMPTS)
        self.driver = Driver(loaded(), rng=self.rng)
        self.stories = [self.driver.add(self.prompt, NUM_TOKENS)]
        self.begun: dict[Story, tuple[int, Sampling]] = {}
        self.seen: dict[int, list[torch.Tensor]] = {}

    def run(self) -> None:
        while live := [story for story in self.stories if not story.is_over]:
            if self.rng.random() < 0.3 and len(self.stories) < 6:
                self.fork()
            else:
                chosen = self.rng.sample(live, self.rng.randrange(1, len(live) + 1))
                self.driver.advance(self.driver.start(*chosen, chunk=self.rng.choice([2, 5, 50])))
            self.check_shared()

    def fork(self) -> None:
        seed = self.rng.choice([None, 1, 2])
        sampling = Sampling() if seed is None else Sampling(temperature=1.0, seed=seed)
        parent = self.rng.choice([story for story in self.stories if not story.is_over])
        child = self.driver.fork(parent, NUM_TOKENS, sampling)
        self.begun[child] = len(parent.outputs), sampling
        self.stories.append(child)

    def check_shared(self) -> None:
        """Blocks that several hold are as they were when they were first seen so."""
        self.driver.runner.cache.check_integrity()
        shared = {block_id for block_id, count in self.driver.holders.items() if count > 1}
        self.seen = {block_id: rows for block_id, rows in self.seen.items() if block_id in shared}
        for block_id in shared:
            rows = rows_of(self.driver, block_id)
            assert all(map(torch.equal, rows, self.seen.setdefault(block_id, rows)))


@pytest.mark.parametrize("seed", range(25))
def test_forks_at_random_points_go_on_as_they_would_alone_and_change_no_row_that_is_shared(seed: int) -> None:
    family = Family(seed)
    family.run()
    first, *forked = family.stories
    assert first.token_ids == generated("mixtral", (family.prompt,), NUM_TOKENS)[0]
    for story in forked:
        num_begun, sampling = family.begun[story]
        assert story.token_ids[num_begun:] == goes_on(family.prompt, story.token_ids[:num_begun], sampling)
    family.driver.check_nothing_left()
