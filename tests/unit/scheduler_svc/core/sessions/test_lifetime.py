from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from scheduler_svc.core.sessions.lifetime import best_lifetime_s

# Quarters of a second, so that sums and products are exact and equal durations come up.
DURATIONS = st.lists(st.integers(0, 400).map(lambda n: n / 4), max_size=64).map(sorted)
GAINS = st.integers(-40, 4000).map(lambda n: n / 4)


def worth_s(tau_s: float, durations_s: Sequence[float], gain_s: float) -> float:
    """The formula as published, by counting."""
    chance = sum(each <= tau_s for each in durations_s) / len(durations_s) if durations_s else 0.0
    return chance * gain_s - tau_s


@given(DURATIONS, GAINS)
def test_no_other_time_is_worth_more(durations_s: list[float], gain_s: float) -> None:
    found = worth_s(best_lifetime_s(durations_s, gain_s), durations_s, gain_s)
    assert found >= max(worth_s(tau_s, durations_s, gain_s) for tau_s in (0.0, *durations_s)) - 1e-9


@given(DURATIONS, GAINS)
def test_it_is_nothing_or_a_past_duration(durations_s: list[float], gain_s: float) -> None:
    assert best_lifetime_s(durations_s, gain_s) in (0.0, *durations_s)


def test_of_times_that_are_worth_the_same_the_shortest_is_taken() -> None:
    assert best_lifetime_s([1.0, 2.0], 2.0) == 0.0  # 0, 1 and 2 s are all worth nothing
    assert best_lifetime_s([1.0, 3.0], 4.0) == 1.0  # 1 and 3 s are both worth 1 s


def test_a_tool_that_returns_soon_or_very_late_is_waited_for_as_long_as_it_may_return_soon() -> None:
    assert best_lifetime_s([0.5] * 7 + [60.0] * 3, 5.0) == 0.5


def test_what_gains_nothing_is_not_kept() -> None:
    assert best_lifetime_s([0.1, 0.2], 0.0) == 0.0
    assert best_lifetime_s([0.1, 0.2], -3.0) == 0.0
    assert best_lifetime_s([], 100.0) == 0.0
