"""Choices of one prompt by the real core and the real model: one computes it, all get the tokens of requests alone."""

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler_svc.core.state.commands import ForkSequence, StartBatch
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, Sequence
from tests.support.core.simulation import BE, LS, Simulation
from tests.support.worker.worker_driver import random_prompts
from tests.unit.test_beams_with_worker import check_nothing_left, simulation

FAMILY, STATEFUL = "mixtral", "qwen3_next"
PROMPTS = random_prompts((9, 40, 3))
NUM_TOKENS = 5
SEEDS = (3, 4, 5, 6)


@pytest.fixture(autouse=True)
def _engine_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


def drawn(seed: int, penalty: float = 1.0) -> SamplingParams:
    return SamplingParams(1.0, seed=seed, repetition_penalty=penalty)


@cache
def alone(family: str, prompt: tuple[int, ...], seed: int, penalty: float = 1.0) -> list[int]:
    """The tokens of one request of that seed."""
    sim = simulation(family)
    sequence = sim.submit(LS, prompt, NUM_TOKENS, sampling=drawn(seed, penalty))
    sim.run()
    return sim.tokens(sequence.seq_id)


def prompt_tokens_computed(sim: Simulation, prompt: tuple[int, ...]) -> int:
    starts = (command for command in sim.commands if isinstance(command, StartBatch))
    items = (item for start in starts for item in start.items)
    return sum(item.num_tokens for item in items if item.first_position < len(prompt))


@pytest.mark.parametrize("penalty", [1.0, 1.5])
@pytest.mark.parametrize("family", [FAMILY, STATEFUL])
def test_a_prompt_is_computed_once_for_all_its_choices(family: str, penalty: float) -> None:
    """Without that blocks be shared by what they hold: each prompt has a salt of its own, and states can't be."""
    sim = simulation(family)
    samplings = [drawn(seed, penalty) for seed in SEEDS]
    choices = sim.submit_choices(LS, PROMPTS[1], samplings, NUM_TOKENS)
    sim.run()
    for choice, seed in zip(choices, SEEDS, strict=True):
        assert sim.tokens(choice.seq_id) == alone(family, PROMPTS[1], seed, penalty)
    assert prompt_tokens_computed(sim, PROMPTS[1]) == len(PROMPTS[1])
    assert sum(isinstance(command, ForkSequence) for command in sim.commands) == len(SEEDS) - 1
    assert [choice.num_cached_tokens for choice in choices] == [0] + [len(PROMPTS[1])] * 3
    assert all(choice.first_token_s == choices[0].first_token_s for choice in choices)
    check_nothing_left(sim)


def test_another_choice_leads_where_the_first_one_is_aborted() -> None:
    for aborts_s in (0.0, 0.002, 0.006, 0.011, 0.02):
        sim = simulation()
        choices = sim.submit_choices(LS, PROMPTS[1], [drawn(seed) for seed in SEEDS], NUM_TOKENS)
        sim.at(aborts_s, lambda sim=sim, first=choices[0]: sim.scheduler.abort(first.seq_id, sim.now_s))
        sim.run()
        for choice, seed in list(zip(choices, SEEDS, strict=True))[1:]:
            assert sim.tokens(choice.seq_id) == alone(FAMILY, PROMPTS[1], seed)
        check_nothing_left(sim)


def test_choices_end_with_their_first_token_where_no_more_are_asked_for() -> None:
    sim = simulation()
    choices = sim.submit_choices(LS, PROMPTS[0], [drawn(seed) for seed in SEEDS], 1)
    sim.run()
    for choice, seed in zip(choices, SEEDS, strict=True):
        assert sim.tokens(choice.seq_id) == alone(FAMILY, PROMPTS[0], seed)[:1]
    assert not any(isinstance(command, ForkSequence) for command in sim.commands)
    check_nothing_left(sim)


def test_choices_that_lost_their_worker_go_on_with_the_next_one() -> None:
    for lost_s in (0.001, 0.006, 0.02):
        first, second = simulation(), simulation()
        choices = first.submit_choices(BE, PROMPTS[1], [drawn(seed) for seed in SEEDS], NUM_TOKENS)
        first.run(until_s=lost_s)
        for choice in choices:
            choice.lose_worker()
            second.outputs[choice.seq_id], second.token_times_s[choice.seq_id] = [*first.outputs[choice.seq_id]], []
        for choice in choices:
            second.scheduler.add(choice)
        second.run()
        for choice, seed in zip(choices, SEEDS, strict=True):
            assert second.tokens(choice.seq_id) == alone(FAMILY, PROMPTS[1], seed)
        check_nothing_left(second)


GROUPS = st.lists(
    st.tuples(
        st.floats(0, 0.1),
        st.sampled_from((LS, BE)),
        st.integers(0, len(PROMPTS) - 1),
        st.integers(1, len(SEEDS)),
        st.none() | st.tuples(st.integers(0, len(SEEDS) - 1), st.floats(0, 0.1)),  # which is aborted, and when
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(groups=GROUPS, num_blocks=st.sampled_from((12, 16, 200)), num_host_blocks=st.sampled_from((0, 200)))
def test_whatever_happens_each_choice_gets_the_tokens_of_a_request_alone(
    groups: list[tuple[float, RequestClass, int, int, tuple[int, float] | None]], num_blocks: int, num_host_blocks: int
) -> None:
    sim = simulation(FAMILY, num_blocks, num_host_blocks)
    asked: list[tuple[Sequence, int, int]] = []
    aborted: set[int] = set()

    def abort(sequence: Sequence) -> None:
        if sim.scheduler.abort(sequence.seq_id, sim.now_s) is not None:
            aborted.add(sequence.seq_id)

    def ask(request_class: RequestClass, prompt: int, num: int, abortion: tuple[int, float] | None) -> None:
        samplings = [drawn(seed) for seed in SEEDS[:num]]
        choices = sim.submit_choices(request_class, PROMPTS[prompt], samplings, NUM_TOKENS)
        asked.extend((choice, prompt, seed) for choice, seed in zip(choices, SEEDS[:num], strict=True))
        if abortion is not None and abortion[0] < num:
            sim.at(sim.now_s + abortion[1], lambda: abort(choices[abortion[0]]))

    for time_s, *rest in groups:
        sim.at(time_s, lambda rest=rest: ask(*rest))
    sim.run()
    for sequence, prompt, seed in asked:
        tokens, expected = sim.tokens(sequence.seq_id), alone(FAMILY, PROMPTS[prompt], seed)
        assert tokens == (expected[: len(tokens)] if sequence.seq_id in aborted else expected)
    check_nothing_left(sim)
