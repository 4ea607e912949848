"""Turns of programs stand where their programs came, ahead of that if their cache is kept, and by bounded times."""

from itertools import count, permutations

import pytest

from scheduler_svc.core.policies import POLICIES
from scheduler_svc.core.policies.base import KEPT_AHEAD_S
from scheduler_svc.core.sessions.programs import MAX_AHEAD_S
from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, Sequence, StopConditions
from tests.support.core.simulation import BE, LS

LS_AHEAD_S = 10.0
_seq_ids = count(1)


def request(
    request_class: RequestClass, arrival_s: float, order_s: float | None = None, *, goes_ahead: bool = False
) -> Sequence:
    sequence = Sequence(
        SeqId(next(_seq_ids)), request_class, (1,), SamplingParams(), StopConditions(10), arrival_s, ttft_s=1.0
    )
    sequence.order_s, sequence.goes_ahead = order_s, goes_ahead
    return sequence


def assert_order(policy: str, expected: list[Sequence]) -> None:
    """Checks that a policy serves them so, however they came in."""
    key = POLICIES[policy]().queue_key
    for given in permutations(expected):
        assert sorted(given, key=key) == expected


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("request_class", [LS, BE])
def test_a_turn_stands_where_its_program_came(policy: str, request_class: RequestClass) -> None:
    early, turn, late = request(request_class, 1.0), request(request_class, 9.0, 2.0), request(request_class, 3.0)
    assert_order(policy, [early, turn, late])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("request_class", [LS, BE])
def test_a_turn_whose_cache_is_kept_goes_ahead_of_programs_that_came_earlier(
    policy: str, request_class: RequestClass
) -> None:
    kept = request(request_class, 9.0, 5.0, goes_ahead=True)
    assert_order(policy, [kept, request(request_class, 8.0, 2.0), request(request_class, 3.0)])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("request_class", [LS, BE])
def test_of_turns_whose_caches_are_kept_the_earlier_program_goes_first(
    policy: str, request_class: RequestClass
) -> None:
    earlier = request(request_class, 9.0, 5.0, goes_ahead=True)
    assert_order(policy, [earlier, request(request_class, 8.0, 6.0, goes_ahead=True)])


@pytest.mark.parametrize("policy", POLICIES)
def test_best_effort_requests_are_passed_by_what_comes_within_bounded_times_only(policy: str) -> None:
    waiting = request(BE, 0.0)
    ahead_s = MAX_AHEAD_S + KEPT_AHEAD_S
    within, beyond = (
        request(BE, arrival_s, arrival_s - MAX_AHEAD_S, goes_ahead=True) for arrival_s in (ahead_s - 1, ahead_s + 1)
    )
    assert_order(policy, [within, waiting, beyond])


@pytest.mark.parametrize("policy", ["qllm", "priority-iteration"])
def test_latency_sensitive_requests_are_passed_by_what_comes_within_twenty_seconds_only(policy: str) -> None:
    waiting = request(LS, 0.0)
    within, beyond = (
        request(LS, arrival_s, arrival_s - MAX_AHEAD_S, goes_ahead=True)
        for arrival_s in (2 * LS_AHEAD_S - 1, 2 * LS_AHEAD_S + 1)
    )
    assert_order(policy, [within, waiting, beyond])


def test_a_near_deadline_counts_as_much_as_an_early_program_and_not_on_top_of_it() -> None:
    urgent, turn = request(LS, 50.0), request(LS, 51.0, 1.0)
    urgent.deadline_s = turn.deadline_s = 52.0
    assert_order("qllm", [urgent, turn])
