"""How many threads the operations get."""

import pytest

from gpu_worker.sequences import WorkTiming
from gpu_worker.threads import fewest_fast_enough, thread_counts, were_disturbed


def timing(num_tokens: int, attention_ns: int, expert_ns: int = 0, num_layers: int = 4) -> WorkTiming:
    return WorkTiming(num_layers, num_layers * num_tokens, 0, attention_ns, 0, 0, expert_ns)


@pytest.mark.parametrize(
    ("most", "tried"), [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (8, (1, 2, 4, 8)), (11, (1, 2, 4, 8, 11))]
)
def test_powers_of_two_up_to_the_most_threads_are_tried(most: int, tried: tuple[int, ...]) -> None:
    assert thread_counts(most) == tried


def test_the_fewest_threads_that_are_about_as_fast_as_the_fastest_are_kept() -> None:
    assert fewest_fast_enough({1: [timing(1, 100)], 2: [timing(1, 95)], 4: [timing(1, 200)]}) == 1
    assert fewest_fast_enough({1: [timing(1, 100)], 2: [timing(1, 40, 15)], 4: [timing(1, 52)]}) == 2


def test_iterations_of_all_lengths_count_by_their_time() -> None:
    one = [timing(1, 10, 5), timing(256, 400)]
    two = [timing(1, 14, 6), timing(256, 210)]
    assert fewest_fast_enough({1: one, 2: two}) == 2


def test_the_fastest_iteration_of_a_length_counts() -> None:
    assert fewest_fast_enough({1: [timing(1, 100), timing(1, 100)], 2: [timing(1, 900), timing(1, 50)]}) == 2


def test_a_number_that_was_given_is_kept() -> None:
    assert fewest_fast_enough({3: [timing(1, 100), timing(256, 100)]}) == 3


@pytest.mark.parametrize(
    ("one_ms", "two_ms", "disturbed"), [(100, 130, True), (100, 110, False), (100, 55, False), (1, 4, False)]
)
def test_more_threads_that_take_much_longer_mean_that_others_held_the_cores(
    one_ms: int, two_ms: int, disturbed: bool
) -> None:
    short = timing(1, 30_000_000)  # what a second thread costs is no sign where there is little to do
    one, two = ([short, timing(256, ms * 1_000_000)] for ms in (one_ms, two_ms))
    assert were_disturbed({1: one, 2: two}) is disturbed


def test_nothing_measured_is_no_sign_of_others() -> None:
    assert not were_disturbed({1: [], 2: []})
    assert not were_disturbed({2: [timing(256, 100_000_000)]})
