"""What the commands do to one another: joins, drops, failures, counts and times."""

import gc
import weakref
from collections import Counter
from itertools import count
from random import Random

import pytest
import torch

from gpu_worker.contract.commands import BatchItem, Sampling
from gpu_worker.contract.results import FinishReason
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.errors import CommandRefused
from gpu_worker.model.loader import adopt_model
from tests.support.models.families import generated, random_model
from tests.support.worker.worker_driver import Driver, loaded, random_prompts

PROMPTS = random_prompts((9, 14, 6, 3))
MIDDLE = Cursor(1, Stage.EXPERTS, 3)


def _expected(count: int = 5) -> tuple[tuple[int, ...], ...]:
    return generated("mixtral", PROMPTS, count)


def test_joined_batches_run_each_expert_once() -> None:
    driver = Driver(loaded())
    stories = [driver.add(prompt, 5) for prompt in PROMPTS[:3]]
    outcome = driver.advance(*(driver.start(story) for story in stories))
    num_layers, num_tokens = 3, 9 + 14 + 6
    assert outcome.timing.num_expert_runs <= num_layers * 8
    num_rows = (num_layers - 1) * num_tokens + 3  # of the last layer, those that the head reads
    assert outcome.timing.expert_tokens == 2 * num_rows
    assert outcome.timing.num_attention_stages == num_layers * 3
    assert outcome.timing.attention_tokens == num_layers * num_tokens
    assert outcome.timing.attention_pairs == num_layers * (9 * 9 + 14 * 14 + 6 * 6)
    assert (outcome.timing.num_heads, outcome.timing.head_rows) == (3, 3)
    assert min(outcome.timing.attention_ns, outcome.timing.expert_ns, outcome.timing.head_ns) > 0
    assert {token.seq_id for token in outcome.tokens} == {story.seq_id for story in stories}
    assert outcome.reached == driver.end


def test_the_batch_behind_goes_alone_until_they_meet() -> None:
    driver = Driver(loaded())
    ahead, behind = (driver.start(driver.add(prompt, 5)) for prompt in PROMPTS[:2])
    driver.advance(ahead, until=MIDDLE)
    outcome = driver.advance(ahead, behind, until=MIDDLE)
    assert outcome.timing.num_attention_stages == 2  # those of the one behind, in layers 0 and 1
    assert driver.cursor(behind) >= MIDDLE


def test_a_batch_at_or_past_the_cursor_stays() -> None:
    driver = Driver(loaded())
    batch_id = driver.start(driver.add(PROMPTS[0], 5))
    reached = driver.advance(batch_id, until=MIDDLE).reached
    outcome = driver.advance(batch_id, until=Cursor(1))
    assert outcome.reached == reached >= MIDDLE
    assert outcome.timing.num_attention_stages == outcome.timing.num_expert_runs == 0


def test_every_unit_is_reported_as_progress() -> None:
    driver = Driver(loaded())
    batch_id = driver.start(driver.add(PROMPTS[0], 5))
    beats: list[int] = []
    outcome = driver.runner.advance([batch_id], driver.end, lambda cursor: not beats.append(1))
    num_insides = outcome.timing.num_attention_stages
    assert len(beats) == outcome.timing.num_attention_stages + outcome.timing.num_expert_runs + num_insides


def test_an_advance_that_must_not_go_on_leaves_its_batch_standing_and_loses_nothing() -> None:
    driver = Driver(loaded())
    story = driver.add(PROMPTS[0], 5)
    batch_id = driver.start(story)
    places: list[Cursor] = []
    while batch_id in driver.runner._batches:
        num_asked = count()
        outcome = driver.runner.advance([batch_id], driver.end, lambda cursor: not next(num_asked))  # noqa: B023
        places.append(outcome.reached)
    assert places == sorted(places)
    twice = {place for place, times in Counter(places).items() if times > 1}
    assert {place.stage for place in twice} == {Stage.ATTENTION}  # inside the stage it stands where it stood before
    assert {cursor.stage for cursor in places} == set(Stage)
    assert places[-1] == driver.end


def test_a_sequence_that_has_ended_is_passed_over_by_a_batch_begun_before_that_was_known() -> None:
    driver = Driver(loaded())
    first, second = _expected()[:2]
    ending, going_on = driver.add(PROMPTS[0], 5), driver.add(PROMPTS[1], 5)
    driver.runner._sequences[ending.seq_id].stop_ids = frozenset(first[:1])
    driver.advance(driver.start(ending, going_on))
    assert ending.outputs[-1].finish_reason is FinishReason.STOP
    length = len(PROMPTS[0])
    items = [BatchItem(ending.seq_id, 1, (), length, (60,)), BatchItem(going_on.seq_id, 1, (), len(PROMPTS[1]), (61,))]
    driver.runner.start_batch(77, items)
    driver.runner.drop_sequence(ending.seq_id)
    outcome = driver.runner.advance([77], driver.end)
    assert [(token.seq_id, token.token_id) for token in outcome.tokens] == [(going_on.seq_id, second[1])]


def test_a_suspended_batch_holds_bytes_and_a_finished_one_none() -> None:
    driver = Driver(loaded())
    batch_id = driver.start(driver.add(PROMPTS[0], 5))
    assert driver.advance(batch_id, until=Cursor(1)).suspended_bytes >= 9 * 64 * 4
    at_experts = driver.advance(batch_id, until=MIDDLE).suspended_bytes
    assert at_experts >= 3 * 9 * 64 * 4  # residual, input and output of the experts
    assert driver.advance(batch_id).suspended_bytes == 0


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "deepseek_v3"])
@pytest.mark.parametrize("place", [Cursor(0), Cursor(1), MIDDLE, Cursor(2, Stage.EXPERTS, 7)], ids=str)
def test_a_sequence_dropped_from_a_suspended_batch_frees_its_blocks_and_the_others_go_on(
    family: str, place: Cursor
) -> None:
    driver = Driver(loaded(family), num_blocks=8, rng=Random(5))
    expected = generated(family, PROMPTS, 5)
    first, gone, last = (driver.add(prompt, 5) for prompt in (PROMPTS[0], PROMPTS[2], PROMPTS[3]))
    batch_id = driver.start(first, gone, last)
    driver.advance(batch_id, until=place)
    driver.drop(gone)
    taker = driver.add(PROMPTS[2], 1)  # takes the dropped sequence's blocks
    driver.advance(driver.start(taker))
    assert taker.token_ids == expected[2][:1]
    driver.drop(taker)
    tokens = driver.advance(batch_id).tokens
    assert [token.seq_id for token in tokens] == [first.seq_id, last.seq_id]
    driver.finish(first, last)
    assert (first.token_ids, last.token_ids) == (expected[0], expected[3])
    driver.check_nothing_left()


def test_the_rows_of_a_dropped_sequence_run_through_no_expert() -> None:
    driver = Driver(loaded())
    kept, gone = driver.add(PROMPTS[3], 5), driver.add(PROMPTS[1], 5)
    batch_id = driver.start(kept, gone)
    driver.advance(batch_id, until=Cursor(1, Stage.EXPERTS, 0))
    driver.drop(gone)
    timing = driver.advance(batch_id).timing
    assert timing.expert_tokens == (3 + 1) * 2  # the last layer: what the head reads
    assert timing.attention_tokens == 3


def test_a_batch_whose_sequences_are_all_dropped_ends_without_work() -> None:
    driver = Driver(loaded())
    stories = [driver.add(prompt, 5) for prompt in PROMPTS[:2]]
    batch_id = driver.start(*stories)
    driver.advance(batch_id, until=MIDDLE)
    for story in stories:
        driver.drop(story)
    assert driver.advance(batch_id, until=Cursor(2)).timing.num_attention_stages == 0
    outcome = driver.advance(batch_id)
    assert (outcome.tokens, outcome.timing.num_expert_runs, outcome.suspended_bytes) == ([], 0, 0)
    assert not driver.batches
    driver.check_nothing_left()


def test_a_dropped_batch_can_be_run_again_from_its_first_position() -> None:
    driver = Driver(loaded())
    story = driver.add(PROMPTS[0], 5)
    driver.advance(driver.start(story, chunk=4))
    batch_id = driver.start(story)
    driver.advance(batch_id, until=MIDDLE)
    driver.drop_batch(batch_id)
    driver.finish(story)
    assert story.token_ids == _expected()[0]


def test_dropping_a_batch_lets_go_of_its_pass() -> None:
    driver = Driver(loaded())
    batch_id = driver.start(driver.add(PROMPTS[0], 5))
    driver.advance(batch_id, until=MIDDLE)
    gone = weakref.ref(driver.runner._batches[batch_id].forward_pass)
    driver.drop_batch(batch_id)
    gc.collect()
    assert gone() is None


def test_finished_passes_are_let_go_of_without_the_garbage_collector() -> None:
    driver = Driver(loaded())
    batch_id = driver.start(driver.add(PROMPTS[0], 5))
    gone = weakref.ref(driver.runner._batches[batch_id].forward_pass)
    gc.disable()
    try:
        driver.advance(batch_id)
        assert gone() is None
    finally:
        gc.enable()


def test_a_batch_whose_model_raises_fails_alone() -> None:
    model = random_model("mixtral")
    driver = Driver(adopt_model(model, name="fragile"))

    def break_on_token_13(_: object, args: tuple[torch.Tensor, ...]) -> None:
        if (args[0] == 13).any():
            raise RuntimeError("unlucky")

    model.get_input_embeddings().register_forward_pre_hook(break_on_token_13)
    good, bad = driver.add(PROMPTS[0], 5), driver.add([13, *PROMPTS[1]], 5)
    good_batch, bad_batch = driver.start(good), driver.start(bad)
    outcome = driver.advance(good_batch, bad_batch)
    (error,) = outcome.batch_errors
    assert (error.batch_id, error.seq_ids, error.message) == (bad_batch, (bad.seq_id,), "RuntimeError: unlucky")
    driver.finish(good)
    assert good.token_ids == _expected()[0]
    driver.check_nothing_left()


def test_commands_on_their_way_pass_a_failed_batch_over_and_go_on_with_the_others() -> None:
    model = random_model("mixtral")
    driver = Driver(adopt_model(model, name="fragile"))
    good, bad = driver.add(PROMPTS[0], 5), driver.add(PROMPTS[1], 5)
    good_batch, bad_batch = driver.start(good), driver.start(bad)
    driver.advance(good_batch, bad_batch, until=MIDDLE)
    hook = model.model.layers[2].register_forward_pre_hook(lambda *_: 1 / 0)
    assert driver.runner.advance([bad_batch], driver.end).batch_errors
    hook.remove()
    outcome = driver.runner.advance([good_batch, bad_batch], driver.end)
    assert [token.seq_id for token in outcome.tokens] == [good.seq_id]
    driver.runner.drop_batch(bad_batch)
    with pytest.raises(CommandRefused, match="not known"):
        driver.runner.advance([bad_batch], driver.end)


def test_an_expert_that_fails_for_one_of_the_joined_batches_fails_that_one_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = adopt_model(random_model("mixtral"), name="fragile")
    driver = Driver(model)
    weights = model.expert_weights[1]
    assert weights is not None
    good, bad = driver.add(PROMPTS[0], 5), driver.add(PROMPTS[1], 5)
    good_batch, bad_batch = driver.start(good), driver.start(bad)
    driver.advance(good_batch, bad_batch, until=Cursor(1, Stage.EXPERTS, 0))
    poison = driver.runner._batches[bad_batch].forward_pass.expert_queues.inputs(2)[0].clone()
    run = type(weights).run

    def run_unless_poisoned(self: object, expert: int, x: torch.Tensor) -> torch.Tensor:
        if expert == 2 and (x == poison).all(-1).any():
            raise RuntimeError("unlucky")
        return run(self, expert, x)  # type: ignore[arg-type]

    monkeypatch.setattr(type(weights), "run", run_unless_poisoned)
    outcome = driver.advance(good_batch, bad_batch)
    assert [error.batch_id for error in outcome.batch_errors] == [bad_batch]
    assert good.token_ids == _expected()[0][:1]


def test_logits_that_are_not_numbers_fail_their_sequence_alone_with_a_clear_message() -> None:
    model = random_model("mixtral")
    driver = Driver(adopt_model(model, name="broken"))
    with torch.no_grad():
        model.get_input_embeddings().weight[13] = float("nan")
    good, bad = driver.add(PROMPTS[0], 5), driver.add([*PROMPTS[1], 13], 5)
    outcome = driver.advance(driver.start(good, bad))
    assert not outcome.batch_errors
    assert [error.seq_id for error in outcome.sequence_errors] == [bad.seq_id]
    assert "not finite" in outcome.sequence_errors[0].message
    assert good.token_ids == _expected()[0][:1]


def test_a_stop_token_ends_a_sequence_and_max_tokens_does_otherwise() -> None:
    driver = Driver(loaded())
    tokens = _expected()[0]
    stopped, full = driver.add(PROMPTS[0], 5, stop_token_ids=[tokens[2]]), driver.add(PROMPTS[0], 4)
    driver.finish(stopped, full)
    assert stopped.token_ids == tokens[:3]
    assert stopped.outputs[-1].finish_reason is FinishReason.STOP
    assert full.token_ids == tokens[:4]
    assert full.outputs[-1].finish_reason is FinishReason.LENGTH


def test_no_stop_token_is_chosen_before_min_tokens() -> None:
    driver = Driver(loaded())
    tokens = _expected()[0]
    story = driver.add(PROMPTS[0], 5, stop_token_ids=[tokens[0], tokens[2]], min_tokens=2)
    driver.advance(driver.start(story))
    driver.advance(driver.start(story))
    assert not {tokens[0], tokens[2]} & set(story.token_ids)
    assert not story.is_over


def test_tokens_generated_by_another_worker_count() -> None:
    driver = Driver(loaded())
    tokens = _expected()[0]
    story = driver.add([*PROMPTS[0], *tokens[:3]], 5, num_output_tokens=3)
    driver.finish(story)
    assert story.token_ids == tokens[3:]


def test_a_seeded_sequence_goes_on_the_same_in_another_life_of_the_worker() -> None:
    sampling = Sampling(temperature=1.0, top_k=50, top_p=0.9, seed=7)
    whole = Driver(loaded())
    story = whole.add(PROMPTS[0], 8, sampling)
    whole.finish(story)
    other = Driver(loaded(), rng=Random(8))
    resumed = other.add([*PROMPTS[0], *story.token_ids[:3]], 8, sampling, num_output_tokens=3)
    other.finish(resumed, other.add(PROMPTS[1], 8, Sampling(temperature=1.0, seed=9)))
    assert resumed.token_ids == story.token_ids[3:]


def test_logprobs_are_those_of_the_plain_model() -> None:
    driver = Driver(loaded())
    story = driver.add(PROMPTS[0], 1, Sampling(temperature=0.5, seed=3))
    driver.finish(story)
    logits = random_model("mixtral")(torch.tensor([PROMPTS[0]])).logits[0, -1]
    expected = logits.log_softmax(-1)[story.token_ids[0]]
    assert story.outputs[0].logprob == pytest.approx(float(expected), abs=1e-4)


def test_a_batch_told_to_stop_among_the_last_experts_does_not_sample_before_it_is_told_to() -> None:
    driver = Driver(loaded())
    batch_id = driver.start(driver.add(PROMPTS[3], 5))  # so few tokens that no expert is sure to have one
    for expert in range(9):
        outcome = driver.advance(batch_id, until=Cursor(2, Stage.EXPERTS, expert))
        assert Cursor(2, Stage.EXPERTS, expert) <= outcome.reached <= Cursor(2, Stage.EXPERTS, 8)
    assert outcome.reached == Cursor(2, Stage.EXPERTS, 8)
    assert len(driver.advance(batch_id).tokens) == 1
