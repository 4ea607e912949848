"""Prompts whose tokens are to be told how probable they are: once each, whatever happens, all computed anew."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from scheduler_svc.core.policies import Limits
from scheduler_svc.core.state.results import FailureOutput, PromptOutput, TokenOutput
from scheduler_svc.core.state.sequence import FinishReason, RequestClass, SamplingParams, Sequence
from tests.support.core.simulation import BE, LS, Simulation, small_model

SCORED = SamplingParams(0.0, num_prompt_logprobs=0)
CHUNKS = Limits(be_chunk_tokens=16, ls_chunk_tokens=24, control_lead_s=0.0)


def run_until(sim: Simulation, is_so: Callable[[], bool]) -> None:
    for number in range(10_000):
        if is_so():
            return
        sim.run(number * 0.001)
    raise AssertionError("it never came so far")


def places(sim: Simulation, sequence: Sequence) -> list[int]:
    """The places in a prompt that were told of, in the order in which they were."""
    return [place for part in sim.scores(sequence.seq_id) for place in range(part.first_position, part.stop)]


def check(sim: Simulation, sequence: Sequence) -> None:
    prompt = sequence.prompt_token_ids
    assert places(sim, sequence) == list(range(1, len(prompt)))
    told = [logprob for part in sim.scores(sequence.seq_id) for logprob in part.logprobs]
    assert told == [-(place + prompt[place] / 1e4) for place in range(1, len(prompt))]


@pytest.mark.parametrize("request_class", [LS, BE])
@pytest.mark.parametrize("length", [1, 2, 16, 17, 100])
def test_every_token_but_the_first_is_told_of_once_before_the_answer(request_class: RequestClass, length: int) -> None:
    sim = Simulation("qllm", limits=CHUNKS)
    sequence = sim.submit(request_class, length, 3, sampling=SCORED)
    sim.run()
    check(sim, sequence)
    outputs = sim.outputs[sequence.seq_id]
    assert [type(one) for one in outputs[-3:]] == [TokenOutput] * 3
    assert sim.tokens(sequence.seq_id) == sim.expected_tokens(sequence)
    sim.check_integrity()


@pytest.mark.parametrize("length", [1, 40])
@pytest.mark.parametrize("lead_s", [0.0, 0.01])
def test_a_sequence_without_tokens_to_generate_ends_with_its_prompt(length: int, lead_s: float) -> None:
    sim = Simulation("qllm", limits=replace(CHUNKS, control_lead_s=lead_s))
    sequence, other = sim.submit(LS, length, 0, sampling=SCORED), sim.submit(LS, 30, 4)
    sim.run()
    check(sim, sequence)
    last = sim.outputs[sequence.seq_id][-1]
    assert isinstance(last, PromptOutput)
    assert last.finish_reason is FinishReason.LENGTH
    assert last.usage is not None
    assert (last.usage.num_prompt_tokens, last.usage.num_output_tokens) == (length, 0)
    assert not sim.scheduler.sequences
    assert sim.tokens(other.seq_id) == sim.expected_tokens(other)
    sim.check_integrity()
    assert sim.scheduler.memory.pool.num_free == sim.model.num_blocks


def test_nothing_is_reused_for_a_scored_prompt_and_others_reuse_what_it_computed() -> None:
    sim = Simulation("qllm", limits=CHUNKS, checks_rows=True)
    first = sim.submit(LS, 64, 1, alike=1)
    sim.run()
    scored = sim.submit(LS, 64, 1, alike=1, sampling=SCORED)
    sim.run()
    last = sim.submit(LS, 64, 1, alike=1)
    sim.run()
    assert [one.num_cached_tokens > 0 for one in (first, scored, last)] == [False, False, True]
    check(sim, scored)


def test_a_scored_prompt_waits_for_nobody_who_computes_the_same() -> None:
    sim = Simulation("qllm", limits=CHUNKS)
    sim.submit(BE, 64, 1, alike=1)
    scored = sim.submit(BE, 64, 1, alike=1, sampling=SCORED)
    sim.run()
    check(sim, scored)
    assert scored.num_cached_tokens == 0


def test_what_another_worker_told_is_not_told_again_and_then_it_may_be_reused() -> None:
    sim = Simulation("qllm", limits=CHUNKS)
    sequence = sim.submit(LS, 100, 2, sampling=SCORED)
    run_until(sim, lambda: sequence.scored_up_to >= 40)
    told = sequence.scored_up_to
    again = Simulation("qllm", limits=CHUNKS)
    again.sequences[sequence.seq_id] = again.worker.told[sequence.seq_id] = sequence
    again.outputs[sequence.seq_id] = sim.outputs[sequence.seq_id]
    again.token_times_s[sequence.seq_id] = []
    sequence.lose_worker()
    assert sequence.num_reusable_tokens == told - 1
    again.scheduler.add(sequence)
    again.run()
    check(again, sequence)
    assert again.tokens(sequence.seq_id) == again.expected_tokens(sequence)


def test_after_its_prompt_was_told_of_a_lost_sequence_reuses_as_any_other() -> None:
    sim = Simulation("qllm", limits=CHUNKS)
    sequence = sim.submit(BE, 64, 8, sampling=SCORED)
    run_until(sim, lambda: bool(sequence.output_token_ids))
    assert sequence.num_reusable_tokens == sequence.num_tokens - 1
    assert sequence.num_scored(0, 64) == 0


@pytest.mark.parametrize("num_host_blocks", [0, 64])
def test_tokens_are_told_of_once_where_caches_are_moved_or_given_up(num_host_blocks: int) -> None:
    sim = Simulation("qllm", model=small_model(num_blocks=12, num_host_blocks=num_host_blocks), limits=CHUNKS)
    scored = [sim.submit(BE, 70, 4, sampling=SCORED) for _ in range(3)]
    for number in range(12):
        sim.at(0.004 + 0.03 * number, lambda: sim.submit(LS, 60, 3))
    sim.run()
    for sequence in scored:
        check(sim, sequence)
        assert sim.tokens(sequence.seq_id) == sim.expected_tokens(sequence)
    counters = sim.scheduler.memory.counters
    assert counters.num_offloads if num_host_blocks else counters.num_drops
    sim.check_integrity()


def test_a_scored_prompt_rides_in_no_iteration_of_others() -> None:
    sim = Simulation("qllm", limits=replace(CHUNKS, ls_tpot_s=0.2))
    for _ in range(4):
        sim.submit(LS, 20, 30)
    scored = sim.submit(BE, 60, 1, sampling=SCORED)
    sim.run()
    check(sim, scored)
    assert scored.first_run_s is not None
    batches = [batch for *_, batches in sim.worker.history for batch in batches if scored.seq_id in batch.items]
    assert all(batch.request_class is BE for batch in batches if batch.items[scored.seq_id].scored_token_ids)


def test_a_worker_that_tells_nothing_fails_the_sequence_and_no_other() -> None:
    sim = Simulation("qllm", limits=CHUNKS)
    bad, good = sim.submit(BE, 20, 2, sampling=SCORED), sim.submit(BE, 20, 2)
    complete = sim.worker.complete
    sim.worker.complete = lambda: replace(complete(), scored=())  # type: ignore[method-assign]
    sim.run()
    assert [type(one) for one in sim.outputs[bad.seq_id]] == [FailureOutput]
    assert sim.tokens(good.seq_id) == sim.expected_tokens(good)
    sim.check_integrity()


def test_rows_that_are_scored_count_as_rows_of_the_head() -> None:
    sim = Simulation("qllm", limits=CHUNKS)
    sim.submit(BE, 16, 1, sampling=SCORED)
    sim.scheduler.schedule(0.0)
    [batch] = sim.scheduler.batches
    assert batch.shape.num_rows == 16
