"""What a device does that runs behind the host, with the cache in pages and whole layers as units: the same tokens.

Everything but the kernels runs on a CPU as well, and does so here; on a CUDA device it runs with `-m gpu`.
"""

from random import Random

import pytest
import torch

from gpu_worker.cache.unified import Layout
from gpu_worker.cursor import Cursor, Stage
from tests.support.models.families import FAMILIES, generated
from tests.support.worker.worker_driver import Driver, Story, loaded, random_prompts

PROMPTS = random_prompts((5, 23, 11, 7))
NUM_TOKENS = 6


def paged(family: str, device: str, seed: int | None = None) -> Driver:
    model = loaded(family, device=device, form="dense")
    return Driver(model, rng=None if seed is None else Random(seed), layout=Layout.PAGES)


def finish(driver: Driver, stories: list[Story], chunk: int = 10_000) -> tuple[tuple[int, ...], ...]:
    driver.finish(*stories, chunk=chunk)
    return tuple(story.token_ids for story in stories)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_in_chunks_over_scattered_blocks_get_the_tokens_of_generate(family: str, device: str) -> None:
    driver = paged(family, device, seed=1)
    stories = [driver.add(prompt, NUM_TOKENS) for prompt in PROMPTS]
    driver.advance(driver.start(*stories[:2], chunk=6))  # so that later ones are decodes beside prompts
    assert finish(driver, stories, chunk=9) == generated(family, PROMPTS, NUM_TOKENS)
    driver.check_nothing_left()


def test_a_context_of_several_sliding_windows_gets_the_tokens_of_generate(device: str) -> None:
    prompts = random_prompts((70, 40), seed=3)  # the window of this gpt_oss is 16
    driver = paged("gpt_oss", device, seed=3)
    stories = [driver.add(prompt, NUM_TOKENS) for prompt in prompts]
    assert finish(driver, stories, chunk=24) == generated("gpt_oss", prompts, NUM_TOKENS)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_next", "gpt_oss", "deepseek_v3"])
def test_a_batch_that_is_stopped_moved_and_robbed_of_a_sequence_keeps_its_tokens(family: str, device: str) -> None:
    expected = generated(family, PROMPTS, NUM_TOKENS)
    rng = Random(5)
    driver = paged(family, device, seed=5)
    patient = [driver.add(prompt, NUM_TOKENS) for prompt in PROMPTS[:3]]
    while live := [story for story in patient if not story.is_over]:
        batch_id = driver.start(*live, chunk=8)
        while batch_id in driver.batches:
            cursor = driver.cursor(batch_id)
            if rng.random() < 0.3:
                moved = rng.choice(live)
                driver.offload(moved)
                urgent = driver.add(PROMPTS[3], 2)
                driver.finish(urgent)
                assert urgent.token_ids == expected[3][:2]
                driver.drop(urgent)
                driver.restore(moved)
            doomed = driver.add(PROMPTS[2], NUM_TOKENS)
            shared = driver.start(doomed)
            driver.advance(shared, until=Cursor(rng.randrange(3)))
            driver.drop(doomed)
            by_experts = rng.random() < 0.5
            driver.advance(batch_id, until=driver.next_cursor(cursor) if by_experts else Cursor(cursor.layer + 1))
    assert tuple(story.token_ids for story in patient) == expected[:3]
    driver.check_nothing_left()


def test_rows_of_a_dropped_sequence_are_not_written_into_blocks_that_are_given_away(device: str) -> None:
    expected = generated("mixtral", PROMPTS, NUM_TOKENS)
    driver = paged("mixtral", device)
    kept, doomed = driver.add(PROMPTS[1], NUM_TOKENS), driver.add(PROMPTS[2], NUM_TOKENS)
    batch_id = driver.start(kept, doomed)
    driver.advance(batch_id, until=Cursor(1))
    driver.drop(doomed)
    heir = driver.add(PROMPTS[0], NUM_TOKENS)
    heirs_batch = driver.start(heir)  # gets the dropped one's blocks
    driver.advance(heirs_batch, until=Cursor(1))
    driver.advance(batch_id)
    driver.advance(heirs_batch)
    driver.finish(kept, heir)
    assert (kept.token_ids, heir.token_ids) == (expected[1], expected[0])


def _stages(driver: Driver, batch_id: int, *, stops_inside: bool) -> set[Stage]:
    """The stages at which a batch is asked whether it goes on."""
    asked: set[Stage] = set()

    def goes_on(cursor: Cursor) -> bool:
        asked.add(cursor.stage)
        return True

    outcome = driver.runner.advance([batch_id], driver.end, goes_on, stops_inside=stops_inside)
    assert outcome.timing.expert_tokens
    assert outcome.timing.num_expert_runs
    assert outcome.timing.attention_ns > 0 < outcome.timing.expert_ns
    return asked


@pytest.mark.parametrize(
    ("num_tokens", "stops_inside", "is_asked_inside"), [(5, True, False), (200, True, True), (200, False, False)]
)
def test_few_tokens_take_whole_layers_and_many_too_unless_they_are_to_stop_inside(
    num_tokens: int, stops_inside: bool, is_asked_inside: bool, device: str
) -> None:
    driver = paged("mixtral", device)
    batch_id = driver.start(driver.add(random_prompts((num_tokens,))[0], 1))
    assert (Stage.EXPERTS in _stages(driver, batch_id, stops_inside=stops_inside)) is is_asked_inside


def test_batches_that_stand_together_share_each_expert(device: str) -> None:
    driver = paged("mixtral", device)
    pair = [driver.start(driver.add(prompt, 1)) for prompt in PROMPTS[:2]]
    together = driver.advance(*pair).timing.num_expert_runs
    alone = [driver.advance(driver.start(driver.add(prompt, 1))).timing.num_expert_runs for prompt in PROMPTS[:2]]
    assert together < sum(alone)


def test_half_precision_answers_like_full_precision_for_a_while(device: str) -> None:
    driver = Driver(loaded("mixtral", torch.bfloat16, device, "dense"), rng=Random(2), layout=Layout.PAGES)
    stories = [driver.add(prompt, 1) for prompt in PROMPTS]
    outputs = finish(driver, stories)
    expected = generated("mixtral", PROMPTS, 1)
    assert sum(ours == theirs for ours, theirs in zip(outputs, expected, strict=True)) >= 3
