"""Decodes that are replayed give the tokens that the model itself gives, wherever suspended and whatever happens then.

On a CPU the recordings run the model again over the same static tensors; with `-m gpu` they are CUDA graphs, of
a dense model, since a device's grouped products of float32 can't be recorded, and other types round differently
in other batches.
"""

from collections.abc import Callable, Iterator
from itertools import count
from random import Random

import pytest
import torch

from gpu_worker.cache.unified import Layout
from gpu_worker.cursor import Cursor
from gpu_worker.replay.recorded_pass import RecordedPass
from gpu_worker.replay.recording import GraphRecorder, Recorder, record_decodes
from tests.support.models.families import generated
from tests.support.worker.worker_driver import Driver, Story, loaded, random_prompts

PROMPTS = random_prompts((5, 23, 11, 7))
NUM_TOKENS = 8
MIXTURES = ("mixtral", "qwen3_moe", "gpt_oss", "glm4_moe")


class RunsAgain:
    """Stands in for a recorder of graphs where there are none: what was recorded is done again by whoever did it."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        work()
        return work


class Fails:
    """A recorder that can't go on where it is told, as on a device with full memory, or that waits for an answer."""

    def __init__(self, at: int, numbers: Iterator[int]) -> None:
        self._fails = next(numbers) >= at

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        if self._fails:
            raise RuntimeError(
                "CUDA error: operation not permitted when stream is capturing\nCUDA kernel errors might ..."
            )
        return RunsAgain().record(work)


class Forgets:
    """A recorder that leaves out what it was given."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        work()
        return lambda: None


@pytest.fixture
def family(device: str) -> str:
    return "mixtral" if device == "cpu" else "llama"


def new_recorder(device: str) -> Recorder:
    return RunsAgain() if device == "cpu" else GraphRecorder()


def recorded(
    family: str,
    device: str,
    sizes: tuple[int, ...] = (1, 2, 4),
    layers_each: int = 1,
    seed: int | None = None,
    longest: int = 64,
) -> Driver:
    model = loaded(family, device=device, form="dense")
    driver = Driver(model, rng=None if seed is None else Random(seed), layout=Layout.PAGES)
    driver.finish(driver.add(PROMPTS[0], 2))  # storage is there once something has been written
    for story in list(driver.stories.values()):
        driver.drop(story)
    num_layers = model.facts.num_layers
    segments = [range(first, min(first + layers_each, num_layers)) for first in range(0, num_layers, layers_each)]
    recordings = record_decodes(model, driver.runner.cache, sizes, segments, lambda: new_recorder(device), longest)
    assert [recording.placement.num_rows for recording in recordings] == list(sizes)
    driver.runner.record_decodes(recordings, expert_share=0.5)
    return driver


def attempt(new_recorder: Callable[[], Recorder], caplog: pytest.LogCaptureFixture) -> tuple[list[int], str]:
    """For how many rows there are recordings in the end, and what the log warns of."""
    model = loaded("mixtral", form="dense")
    driver = Driver(model, layout=Layout.PAGES)
    driver.finish(story := driver.add(PROMPTS[0], 2))
    driver.drop(story)
    recordings = record_decodes(model, driver.runner.cache, (1, 2, 4), [range(2), range(2, 3)], new_recorder, 64)
    driver.runner.record_decodes(recordings, 0.5)
    stories = prefill(driver, 0, 1, 2)
    driver.finish(*stories)
    assert tuple(story.token_ids for story in stories) == generated("mixtral", PROMPTS, NUM_TOKENS)[:3]
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    return [recording.placement.num_rows for recording in recordings], "\n".join(warnings)


def prefill(driver: Driver, *numbers: int) -> list[Story]:
    stories = [driver.add(PROMPTS[number], NUM_TOKENS) for number in numbers]
    driver.advance(driver.start(*stories))
    return stories


def stops(driver: Driver, batch_id: int) -> list[Cursor]:
    """Where a batch is asked whether it goes on, on its way to the end."""
    places: list[Cursor] = []
    driver._take(
        driver.runner.advance([batch_id], driver.end, lambda cursor: places.append(cursor) is None),
        [batch_id],
        driver.end,
    )
    return places


def is_replayed(driver: Driver, batch_id: int) -> bool:
    return isinstance(driver.runner._batches[batch_id].forward_pass, RecordedPass)


@pytest.mark.parametrize(
    ("family", "device"), [*((one, "cpu") for one in MIXTURES), pytest.param("llama", "cuda", marks=pytest.mark.gpu)]
)
@pytest.mark.parametrize("num_sequences", [1, 3])
def test_replayed_decodes_give_the_tokens_of_generate(family: str, num_sequences: int, device: str) -> None:
    driver = recorded(family, device, seed=1)
    stories = prefill(driver, *range(num_sequences))
    driver.finish(*stories)
    assert tuple(story.token_ids for story in stories) == generated(family, PROMPTS, NUM_TOKENS)[:num_sequences]
    driver.check_nothing_left()


def test_a_replayed_decode_stops_where_its_segments_end(family: str, device: str) -> None:
    driver = recorded(family, device, layers_each=2)
    (story,) = prefill(driver, 0)
    num_layers = driver.end.layer
    assert stops(driver, driver.start(story)) == [Cursor(layer) for layer in range(0, num_layers, 2)]


def test_a_stop_within_a_segment_comes_before_it_and_the_rest_follows_later(family: str, device: str) -> None:
    driver = recorded(family, device, layers_each=2)
    (story,) = prefill(driver, 0)
    batch_id = driver.start(story)
    outcome = driver.advance(batch_id, until=Cursor(1))
    assert (outcome.reached, outcome.tokens) == (Cursor(0), [])
    assert driver.advance(batch_id, until=Cursor(2)).reached == Cursor(2)
    assert [token.seq_id for token in driver.advance(batch_id).tokens] == [story.seq_id]


def test_a_suspended_replay_survives_others_moves_and_losses(family: str, device: str) -> None:
    expected = generated(family, PROMPTS, NUM_TOKENS)
    driver = recorded(family, device, seed=4)
    rng = Random(4)
    kept, moved, doomed = prefill(driver, 0, 1, 2)
    while not kept.is_over:
        live = [story for story in (kept, moved, doomed) if story.seq_id in driver.stories]
        batch_id = driver.start(*live)
        driver.advance(batch_id, until=Cursor(1))
        driver.offload(moved)
        urgent = driver.add(PROMPTS[3], 3)
        driver.finish(urgent)  # a prompt by the model, then decodes by another recording
        assert urgent.token_ids == expected[3][:3]
        driver.drop(urgent)
        if doomed in live and len(kept.outputs) == 3:
            driver.drop(doomed)
            heir = driver.add(PROMPTS[3], 2)
            driver.finish(heir)  # in the blocks that it left
            driver.drop(heir)
        driver.restore(moved)
        driver.advance(batch_id, until=Cursor(rng.randrange(1, driver.end.layer)))
        driver.advance(batch_id)
    assert (kept.token_ids, moved.token_ids) == (expected[0], expected[1])
    driver.check_nothing_left()


def test_while_all_recordings_are_suspended_the_model_itself_runs(family: str, device: str) -> None:
    driver = recorded(family, device, sizes=(1, 2))
    stories = [prefill(driver, number)[0] for number in range(4)]
    batches = [driver.start(story) for story in stories]
    assert [is_replayed(driver, batch_id) for batch_id in batches] == [True, True, False, False]
    for batch_id in batches:
        driver.advance(batch_id, until=Cursor(1))
    for batch_id in reversed(batches):
        driver.advance(batch_id)
    driver.finish(*stories)
    assert tuple(story.token_ids for story in stories) == generated(family, PROMPTS, NUM_TOKENS)


def test_a_batch_of_which_all_are_gone_gives_its_recording_back(family: str, device: str) -> None:
    driver = recorded(family, device, sizes=(2,))
    first, second = prefill(driver, 0, 1)
    batch_id = driver.start(first, second)
    driver.advance(batch_id, until=Cursor(1))
    driver.drop(first)
    driver.drop(second)
    assert driver.runner.advance([batch_id], driver.end).tokens == []
    (third,) = prefill(driver, 2)
    assert is_replayed(driver, driver.start(third))


def test_time_and_work_of_a_segment_count_for_attention_and_experts() -> None:
    driver = recorded("mixtral", "cpu", layers_each=2)
    stories = prefill(driver, 0, 1, 2)
    batch_id = driver.start(*stories)
    driver.drop(stories[2])
    timing = driver.advance(batch_id).timing
    num_layers, facts = driver.end.layer, driver.runner.facts
    assert timing.num_attention_stages == num_layers
    assert timing.attention_tokens == 2 * num_layers
    assert timing.expert_tokens == 2 * facts.num_experts_per_token * num_layers
    assert timing.num_expert_runs == num_layers * min(facts.experts_by_layer[0], 2 * facts.num_experts_per_token)
    assert timing.attention_ns == pytest.approx(timing.expert_ns, abs=num_layers)


@pytest.mark.parametrize(
    ("family", "device"),
    [("deepseek_v3", "cpu"), ("qwen3_next", "cpu"), pytest.param("mixtral", "cuda", marks=pytest.mark.gpu)],
)
def test_what_is_not_the_same_kernels_each_time_is_not_recorded(family: str, device: str) -> None:
    model = loaded(family, device=device, form="dense")
    driver = Driver(model, layout=Layout.PAGES)
    assert record_decodes(model, driver.runner.cache, (1,), [range(model.facts.num_layers)], RunsAgain) == []


def test_sequences_too_long_for_a_recording_are_run_by_the_model(family: str, device: str) -> None:
    driver = recorded(family, device, longest=20)
    (story,) = prefill(driver, 2)  # 11 tokens, and 8 more
    (longer,) = prefill(driver, 1)  # 23
    assert is_replayed(driver, driver.start(story))
    assert not is_replayed(driver, driver.start(longer))


def test_half_precision_is_recorded_too(device: str) -> None:
    model = loaded("mixtral", torch.bfloat16, device, "dense")
    outputs = []
    for is_recorded in (False, True):
        driver = Driver(model, layout=Layout.PAGES)
        story = driver.add(PROMPTS[1], NUM_TOKENS)
        driver.advance(driver.start(story))
        if is_recorded:
            segments = [range(model.facts.num_layers)]
            recordings = record_decodes(model, driver.runner.cache, (1, 2), segments, lambda: new_recorder(device))
            driver.runner.record_decodes(recordings, 0.5)
        driver.finish(story)
        outputs.append([token.logprob for token in story.outputs])
    assert outputs[1][:3] == pytest.approx(outputs[0][:3], abs=0.05)  # later ones may go another way by rounding


@pytest.mark.parametrize(("at", "rows"), [(0, []), (1, [1]), (2, [1, 2])])
def test_decodes_that_cannot_be_recorded_are_run_by_the_model_and_the_log_says_why_in_one_line(
    at: int, rows: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    numbers = count()
    got, warning = attempt(lambda: Fails(at, numbers), caplog)
    assert got == rows
    assert f"num_rows={(1, 2, 4)[at]}" in warning
    assert "not permitted when stream is capturing" in warning
    assert "instead=run by the model" in warning
    assert "\n" not in warning


def test_a_recording_that_gives_something_else_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    recordings, warning = attempt(Forgets, caplog)
    assert recordings == []
    assert "replayed logits are off by" in warning
