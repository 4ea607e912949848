"""How many threads an iteration gets."""

import pytest
import torch

from gpu_worker.sequences import WorkTiming
from gpu_worker.threads import ThreadPlan, fewest_fast_enough, thread_counts


def timing(num_tokens: int, attention_ns: int, expert_ns: int = 0, num_layers: int = 4) -> WorkTiming:
    return WorkTiming(num_layers, num_layers * num_tokens, 0, attention_ns, 0, 0, expert_ns)


@pytest.mark.parametrize(
    ("most", "tried"), [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (8, (1, 2, 4, 8)), (11, (1, 2, 4, 8, 11))]
)
def test_powers_of_two_up_to_the_most_threads_are_tried(most: int, tried: tuple[int, ...]) -> None:
    assert thread_counts(most) == tried


def test_the_fewest_threads_that_are_about_as_fast_as_the_fastest_are_kept() -> None:
    assert fewest_fast_enough({1: 100.0, 2: 90.0, 4: 200.0}) == 1
    assert fewest_fast_enough({1: 100.0, 2: 55.0, 4: 50.0}) == 2


def test_prompts_get_the_threads_that_they_gain_from_and_decode_steps_do_not() -> None:
    one = [timing(1, 10, 5), timing(8, 20), timing(64, 100), timing(256, 400)]
    two = [timing(1, 14, 6), timing(8, 18), timing(64, 60), timing(256, 210)]
    plan = ThreadPlan.measured({1: one, 2: two})
    assert [plan.num_threads(n) for n in (1, 8, 63, 64, 256, 4096)] == [1, 1, 1, 2, 2, 2]


def test_more_tokens_never_get_fewer_threads() -> None:
    plan = ThreadPlan.measured({1: [timing(8, 100), timing(64, 100)], 2: [timing(8, 50), timing(64, 100)]})
    assert [plan.num_threads(n) for n in (1, 8, 64)] == [1, 2, 2]


def test_the_fastest_iteration_of_a_length_counts() -> None:
    plan = ThreadPlan.measured({1: [timing(1, 100), timing(1, 100)], 2: [timing(1, 900), timing(1, 50)]})
    assert plan.num_threads(1) == 2


def test_a_number_that_was_given_holds_for_every_length() -> None:
    plan = ThreadPlan.measured({3: [timing(1, 100), timing(256, 100)]})
    assert [plan.num_threads(n) for n in (0, 1, 256)] == [3, 3, 3]


def test_applying_a_plan_sets_the_number_of_threads_of_torch() -> None:
    before = torch.get_num_threads()
    plan = ThreadPlan([(0, 1), (64, 2)])
    try:
        plan.apply(64)
        assert torch.get_num_threads() == 2
        plan.apply(63)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
