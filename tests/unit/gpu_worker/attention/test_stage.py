"""An attention stage can be left between its parts, wherever that is and whatever happens meanwhile."""

from collections.abc import Callable
from itertools import count
from random import Random

import pytest

from gpu_worker.attention import stage as attention_stage
from gpu_worker.contract.results import AdvanceOutcome
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.machine.clock import HostClock
from tests.support.models.families import FAMILIES, generated
from tests.support.worker.worker_driver import Driver, Story, loaded, random_prompts

PROMPTS = random_prompts((9, 14, 6))
NUM_TOKENS = 3
TICK_NS = 1000


def _stops_inside(driver: Driver, *batch_ids: int) -> Callable[[Cursor], bool]:
    """Says to go on before each unit, and not to inside an attention stage, where it is asked with the stage's end."""
    return lambda asked: asked.stage is Stage.ATTENTION or asked in map(driver.cursor, batch_ids)


def _run_with_stops(driver: Driver, *batch_ids: int) -> list[AdvanceOutcome]:
    """Runs batches to the end; they stop at every part."""
    outcomes = []
    while batch_ids[0] in driver.runner._batches:
        outcomes.append(driver.advance(*batch_ids, goes_on=_stops_inside(driver, *batch_ids)))
        assert not outcomes[-1].batch_errors
    return outcomes


def _stand_inside(driver: Driver, batch_id: int, num_parts: int) -> None:
    """Runs a batch up to so many parts of its first attention stage."""
    for _ in range(num_parts):
        driver.advance(batch_id, goes_on=_stops_inside(driver, batch_id))
    assert driver.cursor(batch_id) == Cursor(0)


@pytest.mark.parametrize("uses_products", [False, True], ids=["fused", "products"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("small_parts")
def test_stopping_between_all_parts_changes_no_token_and_no_bit(
    family: str, uses_products: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_stage, "products_pay", lambda *_: uses_products)
    outputs = []
    for stops in (False, True):
        driver = Driver(loaded(family))
        stories = [driver.add(prompt, NUM_TOKENS) for prompt in PROMPTS]
        while live := [story for story in stories if not story.is_over]:
            batch_id = driver.start(*live, chunk=8)
            if stops:
                _run_with_stops(driver, batch_id)
            else:
                driver.advance(batch_id)
        assert tuple(story.token_ids for story in stories) == generated(family, PROMPTS, NUM_TOKENS)
        outputs.append([[token.logprob for token in story.outputs] for story in stories])
        driver.check_nothing_left()
    assert outputs[0] == outputs[1]


@pytest.mark.usefixtures("small_parts")
def test_a_stage_counts_once_however_often_it_is_left_and_all_its_time_is_told_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks = count()
    monkeypatch.setattr(HostClock, "mark", lambda _: TICK_NS * next(ticks))
    driver = Driver(loaded())
    outcomes = _run_with_stops(driver, driver.start(driver.add(PROMPTS[0], 1)))
    num_parts, num_layers = (5, 5, 1), 3  # nine tokens in twos, and the one that the head reads
    assert len(outcomes) == sum(num_parts) + 1
    assert sum(outcome.timing.num_attention_stages for outcome in outcomes) == num_layers
    assert sum(outcome.timing.attention_tokens for outcome in outcomes) == num_layers * 9
    told = [outcome.timing for outcome in outcomes if outcome.timing.attention_ns]
    assert [timing.num_attention_stages for timing in told] == [1] * num_layers
    # Between two marks a tick goes by, so each part takes one at least.
    assert all(timing.attention_ns >= parts * TICK_NS for timing, parts in zip(told, num_parts, strict=True))


def test_a_short_stage_is_one_part() -> None:
    driver = Driver(loaded())
    outcomes = _run_with_stops(driver, driver.start(*(driver.add(prompt, 1) for prompt in PROMPTS)))
    assert len(outcomes) == 3 + 1  # it is left once in each layer, before the part


@pytest.mark.usefixtures("small_parts")
def test_batches_that_stand_inside_a_stage_meet_at_its_experts() -> None:
    driver = Driver(loaded())
    stories = [driver.add(prompt, 1) for prompt in PROMPTS[:2]]
    batch_ids = [driver.start(story) for story in stories]
    for batch_id in batch_ids:
        _stand_inside(driver, batch_id, 2)
    outcome = driver.advance(*batch_ids)
    assert outcome.timing.num_attention_stages == 2 * 3
    assert outcome.timing.num_expert_runs <= 3 * loaded().facts.experts_by_layer[0]
    assert [story.token_ids for story in stories] == [ids[:1] for ids in generated("mixtral", PROMPTS[:2], NUM_TOKENS)]


@pytest.mark.usefixtures("small_parts")
def test_what_a_pass_holds_inside_a_stage_is_counted_until_it_goes_on() -> None:
    driver = Driver(loaded())
    batch_id = driver.start(driver.add(PROMPTS[0], 1))
    before = driver.advance(batch_id, until=Cursor(0)).suspended_bytes
    inside = driver.advance(batch_id, goes_on=_stops_inside(driver, batch_id)).suspended_bytes
    assert inside - before >= 2 * 9 * 64 * 4  # queries, and the output so far
    _run_with_stops(driver, batch_id)
    assert driver.runner.advance([driver.start(driver.add((5,), 2))], driver.end).suspended_bytes == 0


@pytest.mark.parametrize("num_parts", [1, 3, 6])
@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "deepseek_v3"])
@pytest.mark.usefixtures("small_parts")
def test_a_sequence_dropped_inside_a_stage_frees_its_blocks_and_the_others_go_on(family: str, num_parts: int) -> None:
    driver = Driver(loaded(family))
    leaving, staying = (driver.add(prompt, NUM_TOKENS) for prompt in PROMPTS[:2])
    batch_id = driver.start(leaving, staying)
    _stand_inside(driver, batch_id, num_parts)
    driver.drop(leaving)
    other = driver.add(PROMPTS[2], NUM_TOKENS)  # in the blocks that became free
    driver.finish(other)
    _run_with_stops(driver, batch_id)
    driver.finish(staying)
    assert (staying.token_ids, other.token_ids) == generated(family, PROMPTS[1:], NUM_TOKENS)
    driver.check_nothing_left()


@pytest.mark.parametrize("uses_products", [False, True], ids=["fused", "products"])
@pytest.mark.usefixtures("small_parts")
def test_a_sequence_dropped_inside_the_last_stage_is_attended_no_more(
    uses_products: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_stage, "products_pay", lambda *_: uses_products)
    driver = Driver(loaded())
    leaving, staying = (driver.add(prompt, NUM_TOKENS) for prompt in PROMPTS[:2])
    batch_id = driver.start(leaving, staying)
    driver.advance(batch_id, until=Cursor(2))
    driver.advance(batch_id, goes_on=_stops_inside(driver, batch_id))
    assert driver.cursor(batch_id) == Cursor(2)
    driver.drop(leaving)
    _run_with_stops(driver, batch_id)
    driver.finish(staying)
    assert staying.token_ids == generated("mixtral", PROMPTS, NUM_TOKENS)[1]
    driver.check_nothing_left()


@pytest.mark.usefixtures("small_parts")
def test_attention_that_runs_for_one_sequence_at_a_time_is_not_left() -> None:
    driver = Driver(loaded("glm_moe_dsa"))
    story = driver.add(PROMPTS[1], NUM_TOKENS)
    outcomes = _run_with_stops(driver, driver.start(story))
    assert len(outcomes) == 1
    assert story.token_ids == generated("glm_moe_dsa", PROMPTS, NUM_TOKENS)[1][:1]


@pytest.mark.parametrize("num_parts", [1, 3])
@pytest.mark.usefixtures("small_parts")
def test_a_batch_forgotten_inside_a_stage_leaves_nothing(num_parts: int) -> None:
    driver = Driver(loaded())
    story = driver.add(PROMPTS[0], NUM_TOKENS)
    batch_id = driver.start(story)
    _stand_inside(driver, batch_id, num_parts)
    driver.drop_batch(batch_id)
    driver.finish(story)
    assert story.token_ids == generated("mixtral", PROMPTS, NUM_TOKENS)[0]
    driver.check_nothing_left()


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "deepseek_v3"])
@pytest.mark.usefixtures("small_parts")
def test_a_sequence_that_moves_inside_a_stage_keeps_its_tokens(family: str) -> None:
    driver = Driver(loaded(family), rng=Random(7))
    stories: list[Story] = [driver.add(prompt, NUM_TOKENS) for prompt in PROMPTS]
    num_moves = 0
    while live := [story for story in stories if not story.is_over]:
        batch_id = driver.start(*live, chunk=5)
        while batch_id in driver.runner._batches:
            driver.advance(batch_id, goes_on=_stops_inside(driver, batch_id))
            moved = live[num_moves % len(live)]
            driver.offload(moved)
            driver.restore(moved)
            num_moves += 1
    assert tuple(story.token_ids for story in stories) == generated(family, PROMPTS, NUM_TOKENS)
    driver.check_nothing_left()
