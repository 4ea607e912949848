"""Whatever is preempted, joined, moved or dropped: a sequence's tokens are those of generate, and no block is lost."""

from collections.abc import Iterator
from random import Random

import pytest

from gpu_worker.cursor import Cursor, Stage
from tests.support.models.families import FAMILIES, generated
from tests.support.worker.worker_driver import Driver, Story, loaded, random_prompts

PROMPTS = random_prompts((9, 14, 6, 3, 11, 5))
NUM_TOKENS = 4


def _units(driver: Driver, batch_id: int) -> Iterator[Cursor]:
    """Advances a batch by single units to the end of its iteration; yields where it stands before each."""
    while batch_id in driver.batches:
        yield driver.cursor(batch_id)
        if batch_id in driver.batches:
            driver.advance(batch_id, until=driver.next_cursor(driver.cursor(batch_id)))


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss", "glm4_moe", "deepseek_v3"])
def test_another_iteration_at_every_layer_and_expert_changes_no_token(family: str) -> None:
    driver = Driver(loaded(family))
    expected = generated(family, PROMPTS, NUM_TOKENS)
    patient = [driver.add(prompt, NUM_TOKENS) for prompt in PROMPTS[:2]]
    places: set[Cursor] = set()
    while live := [story for story in patient if not story.is_over]:
        batch_id = driver.start(*live)
        for cursor in _units(driver, batch_id):
            places.add(cursor)
            urgent = driver.add(PROMPTS[3], 1)
            driver.advance(driver.start(urgent))
            assert urgent.token_ids == expected[3][:1]
            driver.drop(urgent)
    assert tuple(story.token_ids for story in patient) == expected[:2]
    for layer, num_experts in enumerate(loaded(family).facts.experts_by_layer):
        assert Cursor(layer) in places
        stopped_at = {cursor.expert for cursor in places if cursor[:2] == (layer, Stage.EXPERTS)}
        assert len(stopped_at) >= num_experts / 2  # the others were chosen by no token, and are passed over
    driver.check_nothing_left()


@pytest.mark.parametrize("family", FAMILIES)
def test_stopping_at_every_unit_changes_no_bit_of_any_probability(family: str) -> None:
    outputs = []
    for stops in (False, True):
        driver = Driver(loaded(family))
        stories = [driver.add(prompt, 3) for prompt in PROMPTS[:3]]
        while not stories[0].is_over:
            batch_id = driver.start(*stories)
            for _ in _units(driver, batch_id) if stops else ():
                pass
            if not stops:
                driver.advance(batch_id)
        outputs.append([[(token.token_id, token.logprob) for token in story.outputs] for story in stories])
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "glm4_moe"])
def test_a_batch_that_another_joins_at_any_layer_and_expert_keeps_its_tokens(family: str) -> None:
    driver = Driver(loaded(family))
    expected = generated(family, PROMPTS, NUM_TOKENS)
    place = Cursor(0)
    while place < driver.end:
        pair = [driver.add(prompt, NUM_TOKENS) for prompt in PROMPTS[:2]]
        for _ in range(2):  # the prompts, then a token each
            ahead, behind = (driver.start(story) for story in pair)
            driver.advance(ahead, until=place)
            driver.advance(ahead, behind)
        assert [story.token_ids for story in pair] == [tokens[:2] for tokens in expected[:2]]
        for story in pair:
            driver.drop(story)
        place = driver.next_cursor(place)
    driver.check_nothing_left()


class History:
    """One random interleaving of everything that a scheduler can do."""

    def __init__(self, family: str, seed: int, *, joins: bool) -> None:
        self.rng = Random(seed)
        self.joins = joins
        self.expected = dict(zip(PROMPTS, generated(family, PROMPTS, NUM_TOKENS), strict=True))
        self.driver = Driver(loaded(family), num_blocks=32, rng=self.rng)
        self.stories = [
            self.driver.add(prompt, NUM_TOKENS) for prompt in self.rng.sample(PROMPTS, self.rng.randrange(2, 6))
        ]

    def run(self) -> None:
        while any(not story.is_over for story in self.stories):
            act = self.rng.choices(
                [self.start, self.advance, self.offload, self.restore, self.drop, self.drop_batch],
                [4, 12, 1, 2, 0.05, 0.1],
            )[0]
            act()
            self.driver.runner.cache.check_integrity()
        for story in self.stories:
            assert story.token_ids == self.expected[story.prompt]
        for batch_id in list(self.driver.batches):
            self.driver.drop_batch(batch_id)
        self.driver.check_nothing_left()

    def start(self) -> None:
        idle = [s for s in self.stories if s.in_batch is None and not s.is_over and not s.is_offloaded]
        if idle:
            members = self.rng.sample(idle, self.rng.randrange(1, len(idle) + 1))
            self.driver.start(*members, chunk=self.rng.choice([3, 8, 100]))

    def advance(self) -> None:
        ready = [
            batch_id
            for batch_id, members in self.driver.batches.items()
            if not any(story.is_offloaded for story, _ in members)
        ]
        if ready:
            chosen = self.rng.sample(ready, self.rng.randrange(1, len(ready) + 1) if self.joins else 1)
            until = self._somewhere(max(map(self.driver.cursor, chosen)))
            outcome = self.driver.advance(*chosen, until=until, goes_on=lambda _: self.rng.random() < 0.97)
            assert not outcome.batch_errors

    def offload(self) -> None:
        here = [story for story in self.stories if not story.is_offloaded]
        if here:
            self.driver.offload(self.rng.choice(here))

    def restore(self) -> None:
        away = [story for story in self.stories if story.is_offloaded]
        if away:
            self.driver.restore(self.rng.choice(away))

    def drop(self) -> None:
        if len(self.stories) > 1:
            self.driver.drop(self.stories.pop(self.rng.randrange(len(self.stories))))

    def drop_batch(self) -> None:
        if self.driver.batches:
            self.driver.drop_batch(self.rng.choice(list(self.driver.batches)))

    def _somewhere(self, from_cursor: Cursor) -> Cursor:
        """A random cursor not before one, the end in a third of the cases."""
        cursor = from_cursor
        for _ in range(self.rng.choice([1, 3, 12, 10_000, 10_000])):
            if cursor < self.driver.end:
                cursor = self.driver.next_cursor(cursor)
        return cursor


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("joins", [False, True], ids=["alone", "joining"])
@pytest.mark.parametrize("start", range(0, 100, 50))
def test_random_interleavings_change_no_token_and_lose_no_block(start: int, joins: bool) -> None:
    for seed in range(start, start + 50):
        History("mixtral", seed, joins=joins).run()


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("family", ["qwen2_moe", "gpt_oss", "deepseek_v3", "qwen3_next", "jamba", "glm_moe_dsa"])
def test_random_interleavings_change_no_token_in_other_families(family: str) -> None:
    for seed in range(8):
        History(family, 1000 + seed, joins=True).run()


def test_offloading_a_sequence_wherever_its_batch_stands_changes_no_token() -> None:
    driver = Driver(loaded(), rng=Random(4))
    stories: list[Story] = [driver.add(prompt, NUM_TOKENS) for prompt in PROMPTS[:2]]
    while live := [story for story in stories if not story.is_over]:
        for cursor in _units(driver, driver.start(*live, chunk=5)):
            moved = live[cursor.expert % len(live)]
            driver.offload(moved)
            driver.restore(moved)
    assert tuple(story.token_ids for story in stories) == generated("mixtral", PROMPTS, NUM_TOKENS)[:2]
    driver.check_nothing_left()
