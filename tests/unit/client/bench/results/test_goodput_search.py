import itertools
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qllm.client.bench.results.goodput_search import GoodputSearch, Rule, Step, Tally

RULE = Rule(goal=0.99, min_windows=2, max_windows=4)
MANY = 1000  # requests of a window that leave no doubt


def run(search: GoodputSearch, num_met: Callable[[int, int], int], num_requests: int = MANY) -> list[Step]:
    """Answers each step, window by window: so many requests of the level's n-th one kept their targets."""
    steps: list[Step] = []
    while (step := search.step) is not None:
        steps.append(step)
        first = search.tallies.get(step.num_be_clients, Tally()).num_windows
        windows = range(first, first + step.num_windows)
        met = sum(num_met(step.num_be_clients, number) for number in windows)
        search.take(Tally(step.num_windows, met, step.num_windows * num_requests))
        assert len(steps) < 10_000
    return steps


def levels_of(search: GoodputSearch) -> list[int]:
    return list(search.tallies)


def most_levels(max_be_clients: int) -> int:
    """Zero, one, each double, the greatest; then as many as halving the last stretch takes."""
    doublings = math.ceil(math.log2(max_be_clients)) if max_be_clients > 1 else 0
    return 2 + doublings + max(doublings - 1, 0)


def test_clients_are_doubled_until_they_do_not_hold_and_halved_in_between() -> None:
    search = GoodputSearch(RULE, 64)
    run(search, lambda level, _: MANY if level <= 11 else 0)
    assert levels_of(search) == [0, 1, 2, 4, 8, 16, 12, 10, 11]
    assert (search.held, search.failed) == (11, 12)


def test_a_server_that_bears_all_clients_is_not_asked_for_more() -> None:
    search = GoodputSearch(RULE, 24)
    run(search, lambda *_: MANY)
    assert levels_of(search) == [0, 1, 2, 4, 8, 16, 24]
    assert (search.held, search.failed) == (24, None)


def test_where_latency_sensitive_requests_alone_fail_nothing_else_is_tried() -> None:
    search = GoodputSearch(RULE, 64)
    run(search, lambda *_: 0)
    assert levels_of(search) == [0]
    assert (search.held, search.failed) == (None, 0)


def test_where_one_client_is_too_many_only_latency_sensitive_requests_alone_hold() -> None:
    search = GoodputSearch(RULE, 64)
    run(search, lambda level, _: 0 if level else MANY)
    assert levels_of(search) == [0, 1]
    assert (search.held, search.failed) == (0, 1)


@given(st.integers(1, 300), st.data())
def test_the_boundary_of_any_monotone_curve_is_found_in_few_levels(max_be_clients: int, data: st.DataObject) -> None:
    boundary = data.draw(st.integers(0, max_be_clients))
    search = GoodputSearch(RULE, max_be_clients)
    run(search, lambda level, _: MANY if level <= boundary else 0)
    assert search.held == boundary
    assert search.failed == (None if boundary == max_be_clients else boundary + 1)
    assert len(search.tallies) <= most_levels(max_be_clients)


@given(st.integers(1, 300), st.integers(1, 40), st.randoms(use_true_random=False))
def test_it_ends_whatever_noise_it_is_fed(max_be_clients: int, num_requests: int, chance: random.Random) -> None:
    search = GoodputSearch(RULE, max_be_clients)
    steps = run(search, lambda *_: chance.randint(max(num_requests - 2, 0), num_requests), num_requests)
    assert len(search.tallies) <= most_levels(max_be_clients)
    assert all(RULE.min_windows <= tally.num_windows <= RULE.max_windows for tally in search.tallies.values())
    measured = [step.num_be_clients for step in steps]
    assert len(list(itertools.groupby(measured))) == len(search.tallies), "a level is measured at one go"
    assert search.held is None or RULE.holds(search.tallies[search.held])
    assert search.failed is None or not RULE.holds(search.tallies[search.failed])


def test_windows_are_added_while_the_interval_holds_the_goal() -> None:
    search = GoodputSearch(RULE, 1)
    assert run(search, lambda *_: 20, num_requests=20) == [
        *(Step(0, 2), Step(0, 1), Step(0, 1)),
        *(Step(1, 2), Step(1, 1), Step(1, 1)),
    ]


def test_no_window_is_added_once_the_answer_is_sure() -> None:
    search = GoodputSearch(RULE, 1)
    assert run(search, lambda level, _: 15 if level else MANY) == [Step(0, 2), Step(1, 2)]


def test_one_bad_window_among_good_ones_is_outvoted_by_those_that_are_added() -> None:
    search = GoodputSearch(Rule(goal=0.9, min_windows=2, max_windows=4), 1)
    run(search, lambda _, window: 7 if window == 0 else 10, num_requests=10)
    assert search.tallies[0] == Tally(4, 37, 40)
    assert search.held == 1


@pytest.mark.parametrize(("num_met", "holds"), [(99, True), (98, False)])
def test_a_level_holds_if_its_share_is_the_goal_or_more(num_met: int, holds: bool) -> None:
    assert RULE.holds(Tally(2, num_met, 100)) is holds


def test_a_level_that_nobody_asked_at_does_not_hold() -> None:
    search = GoodputSearch(RULE, 4)
    run(search, lambda *_: 0, num_requests=0)
    assert search.tallies == {0: Tally(4, 0, 0)}
    assert search.held is None


def test_windows_that_were_cut_off_are_asked_for_again() -> None:
    search = GoodputSearch(RULE, 4)
    search.take(Tally(1, MANY, MANY))
    assert search.step == Step(0, 1)
