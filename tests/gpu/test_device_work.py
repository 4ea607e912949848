"""On a CUDA device: nothing waits between steps, a stop comes in time, and rows sent to the host come back the same."""

import time

import pytest
import torch

from gpu_worker.contract.commands import AddSequence, BatchItem
from gpu_worker.cursor import Cursor
from gpu_worker.execution.runner import Runner
from gpu_worker.model.loader import LoadedModel
from gpu_worker.replay.recording import GraphRecorder
from tests.support.worker.device_drivers import OTHER, PROMPT, driver_of, no_waiting, with_recordings
from tests.support.worker.worker_driver import GREEDY, random_prompts

pytestmark = pytest.mark.gpu


def test_a_prompt_over_scattered_blocks_runs_without_waiting(mixtral: LoadedModel) -> None:
    driver = driver_of(mixtral, seed=1)
    story = driver.add(PROMPT, 2)
    driver.advance(driver.start(story, chunk=200))
    driver.advance(driver.start(story, chunk=200))  # kernels are chosen, and memory is there
    batch_id = driver.start(story, chunk=200)
    last_layer = Cursor(mixtral.facts.num_layers - 1)
    with no_waiting():
        driver.runner.advance([batch_id], last_layer, stops_inside=False)
    driver.advance(batch_id)


@pytest.mark.parametrize("is_recorded", [False, True])
def test_a_decode_runs_without_waiting(mixtral: LoadedModel, is_recorded: bool) -> None:
    driver = with_recordings(mixtral) if is_recorded else driver_of(mixtral)
    stories = [driver.add(prompt, 4) for prompt in (PROMPT, OTHER, PROMPT[:50])]
    driver.advance(driver.start(*stories))
    driver.advance(driver.start(*stories))
    batch_id = driver.start(*stories)
    with no_waiting():
        driver.runner.advance([batch_id], Cursor(mixtral.facts.num_layers - 2))
    driver.advance(batch_id)
    driver.finish(*stories)


def test_offload_and_restore_wait_for_nothing_and_lose_nothing(mixtral: LoadedModel) -> None:
    outputs = []
    for is_moved in (False, True):
        driver = driver_of(mixtral, seed=2)
        story, filler = driver.add(PROMPT, 3), driver.add(PROMPT[::-1], 1)
        driver.advance(driver.start(story))
        if is_moved:
            with no_waiting():
                driver.offload(story)
            driver.free.sort()
            driver.finish(filler)  # writes into the blocks that were left, while they may still be on their way
            with no_waiting():
                driver.restore(story)
        driver.finish(story)
        outputs.append([(token.token_id, token.logprob) for token in story.outputs])
    assert outputs[0] == outputs[1]


def test_stops_at_every_layer_and_expert_change_no_bit(mixtral: LoadedModel) -> None:
    outputs = []
    for stops in (False, True):
        driver = driver_of(mixtral)
        story = driver.add(PROMPT, 2)
        batch_id = driver.start(story)  # many tokens: experts one by one either way
        while stops and batch_id in driver.batches:
            driver.advance(batch_id, until=driver.next_cursor(driver.cursor(batch_id)))
            urgent = driver.add(OTHER, 1)
            driver.finish(urgent)
            driver.drop(urgent)
        if not stops:
            driver.advance(batch_id)
        outputs.append([(token.token_id, token.logprob) for token in story.outputs])
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("num_tokens", [1, 2000])
def test_of_a_batch_that_is_stopped_little_is_on_its_way(mixtral: LoadedModel, num_tokens: int) -> None:
    runner = Runner(mixtral, 512, 16, 0, run_ahead_ms=1.0)
    runner.add_sequence(AddSequence(1, GREEDY, (), 3))
    on_its_way_ms: list[float] = []
    longest_unit_ms = 0.0
    for number in range(2):  # the first chooses kernels
        blocks = range(256 * number, 256 * (number + 1))
        prompt = random_prompts((num_tokens,), seed=number)[0]
        runner.start_batch(number, [BatchItem(1, num_tokens, prompt, number * num_tokens, blocks)])
        on_its_way_ms.clear()

        def goes_on(cursor: Cursor) -> bool:
            began_s = time.perf_counter()
            torch.cuda.synchronize()
            on_its_way_ms.append((time.perf_counter() - began_s) * 1e3)
            return True

        timing = runner.advance([number], Cursor(mixtral.facts.num_layers), goes_on).timing
        longest_unit_ms = timing.layers_ns / 1e6 / mixtral.facts.num_layers
    assert max(on_its_way_ms) < max(5.0, 3 * longest_unit_ms)  # not the iteration: a bound, not a figure


def test_times_of_a_unit_are_the_device_s(mixtral: LoadedModel) -> None:
    driver = driver_of(mixtral)
    short, long = driver.add(OTHER[:4], 1), driver.add(PROMPT, 1)
    times = [driver.advance(driver.start(story)).timing for story in (short, long)]
    assert all(timing.attention_ns > 0 < timing.expert_ns for timing in times)


def test_memory_does_not_grow_from_iteration_to_iteration(mixtral: LoadedModel) -> None:
    driver = with_recordings(mixtral)
    held: list[int] = []
    for _ in range(6):
        story = driver.add(PROMPT, 4)
        driver.finish(story)
        driver.drop(story)
        torch.cuda.synchronize()
        held.append(torch.cuda.memory_allocated())
    assert held[2] == held[-1]


def test_what_cannot_be_captured_is_named_and_ends_no_other_capture(mixtral: LoadedModel) -> None:
    """The last: torch's own random number generator counts as captured afterwards, and the model is drawn from it."""
    numbers = torch.arange(10, device="cuda")
    total = torch.zeros((), dtype=torch.int64, device="cuda")

    def ask() -> None:
        numbers.sum().item()

    def add() -> None:
        total.copy_(numbers.sum())

    with pytest.raises(RuntimeError, match="captur"):
        GraphRecorder().record(ask)
    add()  # kernels are loaded
    total.zero_()
    GraphRecorder().record(add)()
    assert total.item() == 45
    driver = with_recordings(mixtral)
    story = driver.add(PROMPT, 3)
    driver.finish(story)
    assert len(story.token_ids) == 3
