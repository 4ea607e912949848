import random
from statistics import correlation

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_svc.core.sessions import turn_counts
from scheduler_svc.core.sessions.turn_counts import ENOUGH_PROGRAMS, TurnCounts


def eta_of(all_turns: list[int]) -> float:
    counts = TurnCounts()
    for num_turns in all_turns:
        counts.program_ended(num_turns)
    return counts.eta


def test_who_has_been_served_goes_on_while_too_few_programs_have_ended_to_tell() -> None:
    assert eta_of([1, 9] * (ENOUGH_PROGRAMS // 2 - 1)) == 1.0


def test_programs_of_a_fixed_number_of_turns_gain_all_by_going_on() -> None:
    assert eta_of([7] * 50) == pytest.approx(1.0)


def test_programs_that_end_by_chance_gain_nothing_by_going_on() -> None:
    chance = random.Random(4)
    assert eta_of([1 + int(chance.expovariate(0.25)) for _ in range(4000)]) < 0.25


def test_programs_of_one_turn_tell_nothing() -> None:
    assert eta_of([1] * 50) == 1.0


@given(st.lists(st.integers(1, 30), min_size=ENOUGH_PROGRAMS, max_size=80))
def test_it_is_the_correlation_over_all_turns(all_turns: list[int]) -> None:
    served = [i for n in all_turns for i in range(1, n + 1)]
    left = [n - i for n in all_turns for i in range(1, n + 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turn_counts, "_FORGETTING", 1.0)
        found = eta_of(all_turns)
    if max(all_turns) > 1:
        assert found == pytest.approx(min(1.0, max(0.0, -correlation(served, left))), abs=1e-6)
