"""Each class has its own limits on requests, tokens and waits; who is refused is told why, and when to come back."""

from collections.abc import Callable

import pytest

from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import DeadlineTooSoon, Overloaded, Refusal, TokensSpent, WaitTooLong
from scheduler_svc.serving.admission import ClassAdmission, ClassLimits, require_deadline

LS = RequestClass.LATENCY_SENSITIVE


def admission(max_requests: int = 10, max_tokens: int = 0, max_wait_s: float = 0.0) -> ClassAdmission:
    return ClassAdmission(LS, ClassLimits(max_requests, max_tokens, max_wait_s))


def test_requests_beyond_the_limit_are_refused_until_one_ends() -> None:
    places = admission(max_requests=1)
    places.enter(10)
    with pytest.raises(Overloaded, match="1 requests wait or run"):
        places.enter(10)
    places.leave(10, now_s=1.0)
    places.enter(10)


def test_tokens_beyond_the_budget_are_refused_until_enough_have_left() -> None:
    places = admission(max_tokens=100)
    places.enter(60)
    with pytest.raises(
        TokensSpent, match=r"50 tokens, allowed are 100 for all live requests together; retry in"
    ) as caught:
        places.enter(50)
    assert caught.value.retry_after_s is not None
    places.enter(40)
    places.leave(60, now_s=1.0)
    places.enter(50)
    assert (places.num_live, places.num_tokens) == (2, 90)


def test_a_request_that_never_fits_is_not_told_to_come_back() -> None:
    with pytest.raises(TokensSpent, match="never fits") as caught:
        admission(max_tokens=100).enter(101)
    assert caught.value.retry_after_s is None


def test_a_wait_beyond_the_limit_is_refused_for_as_long_as_it_is_beyond() -> None:
    places = admission(max_wait_s=30.0)
    places.enter(10, wait_s=30.0)
    hints = set()
    for _ in range(8):
        with pytest.raises(WaitTooLong, match=r"in about 50\.0 s, allowed are 30 s; retry in") as caught:
            places.enter(10, wait_s=50.0)
        hints.add(caught.value.retry_after_s)
    assert all(hint is not None and 20.0 <= hint <= 30.0 for hint in hints)
    assert len(hints) > 1  # so that not all come back together
    assert places.num_live == 1


def test_without_limits_any_number_of_tokens_and_any_wait_is_taken() -> None:
    admission().enter(1 << 40, wait_s=1e9)


def test_only_a_deadline_that_cannot_be_met_is_refused() -> None:
    require_deadline(None, now_s=5.0, soonest_s=1e9)
    require_deadline(6.0, now_s=5.0, soonest_s=1.9)  # a prediction may be off by half
    with pytest.raises(DeadlineTooSoon, match=r"got 1\.000 s from now, the first token takes 2\.100 s"):
        require_deadline(6.0, now_s=5.0, soonest_s=2.1)
    with pytest.raises(DeadlineTooSoon, match=r"got 0\.000 s"):
        require_deadline(4.0, now_s=5.0, soonest_s=0.0)


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (lambda: admission(0).enter(1), Refusal.OVERLOAD),
        (lambda: admission(max_tokens=1).enter(2), Refusal.TOKENS),
        (lambda: admission(max_wait_s=1.0).enter(1, 2.0), Refusal.WAIT),
        (lambda: require_deadline(0.0, 1.0, 1.0), Refusal.DEADLINE),
    ],
)
def test_each_refusal_counts_as_its_own(refused: Callable[[], None], reason: Refusal) -> None:
    with pytest.raises((Overloaded, DeadlineTooSoon)) as caught:
        refused()
    assert caught.value.refusal is reason


def test_requests_that_come_together_are_taken_in_all_or_none() -> None:
    places = admission(max_requests=4, max_tokens=100)
    places.enter(10, num_requests=2)
    with pytest.raises(Overloaded):
        places.enter(30, num_requests=3)
    with pytest.raises(TokensSpent):
        places.enter(91, num_requests=2)
    assert (places.num_live, places.num_tokens) == (2, 10)
    places.enter(90, num_requests=2)
    assert (places.num_live, places.num_tokens) == (4, 100)
