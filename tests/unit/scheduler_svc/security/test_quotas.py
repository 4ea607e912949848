"""A tenant gets what its quota says over time, and not more at once."""

import pytest

from scheduler_svc.errors import QuotaExceeded
from scheduler_svc.security.quotas import Account, ItemsAccount, Place, Quota


def account(**quota: int) -> Account:
    return Account("acme", Quota(**quota))


def retry_s(refused: pytest.ExceptionInfo[QuotaExceeded]) -> float:
    assert refused.value.retry_after_s is not None
    return refused.value.retry_after_s


def test_an_account_without_quota_takes_everything() -> None:
    free = account()
    for _ in range(1000):
        free.enter(10**9, 0.0)


def test_requests_of_a_minute_are_taken_at_once_and_come_back_one_by_one() -> None:
    one = account(requests_per_minute=6)
    for _ in range(6):
        one.enter(1, 0.0)
    with pytest.raises(QuotaExceeded, match="tenant acme: allowed are 6 requests a minute") as refused:
        one.enter(1, 0.0)
    assert 10 <= retry_s(refused) <= 15  # ten seconds a request, and up to half as much again
    one.enter(1, 10.0)
    with pytest.raises(QuotaExceeded):
        one.enter(1, 10.0)


def test_no_more_than_a_minutes_requests_are_saved_up() -> None:
    one = account(requests_per_minute=2)
    one.enter(1, 0.0)
    for _ in range(2):
        one.enter(1, 10_000.0)
    with pytest.raises(QuotaExceeded):
        one.enter(1, 10_000.0)


def test_a_request_takes_the_tokens_that_it_may_use_and_gives_back_those_that_it_did_not() -> None:
    one = account(tokens_per_minute=600)
    one.enter(500, 0.0)
    with pytest.raises(QuotaExceeded, match="600 tokens a minute, of which this request may use 200") as refused:
        one.enter(200, 0.0)
    assert 10 <= retry_s(refused) <= 15  # 100 tokens are lacking, ten come a second
    one.leave(400, 0.0)
    one.enter(200, 0.0)


def test_a_request_larger_than_a_minutes_tokens_is_served_and_leaves_a_debt() -> None:
    one = account(tokens_per_minute=600)
    one.enter(1800, 0.0)
    for now_s in (0.0, 60.0, 119.0):
        with pytest.raises(QuotaExceeded):
            one.enter(1, now_s)
    one.enter(1, 121.0)


def test_requests_at_a_time_are_bounded_until_one_ends() -> None:
    one = account(max_live=2)
    places = [Place(one, 5, lambda: 0.0) for _ in range(2)]
    with pytest.raises(QuotaExceeded, match="2 requests at a time"):
        one.require_place(0.0)
    places[0].leave(5)
    places[0].leave(5)  # the second time is nothing
    one.enter(5, 0.0)
    with pytest.raises(QuotaExceeded):
        one.require_place(0.0)


def test_a_refused_request_costs_nothing() -> None:
    one = account(requests_per_minute=10, tokens_per_minute=600, max_live=2)
    one.enter(600, 0.0)
    for _ in range(100):
        with pytest.raises(QuotaExceeded):
            one.enter(600, 0.0)
    assert one.num_live == 1
    one.enter(600, 60.0)


def test_time_that_goes_backwards_gives_nothing() -> None:
    one = account(requests_per_minute=1)
    one.enter(1, 100.0)
    with pytest.raises(QuotaExceeded):
        one.enter(1, 0.0)


def test_a_changed_quota_counts_at_once_and_what_is_live_stays_counted() -> None:
    one = account(requests_per_minute=1, max_live=10)
    one.enter(1, 0.0)
    one.change(Quota(requests_per_minute=1, max_live=1))
    with pytest.raises(QuotaExceeded, match="1 requests at a time"):
        one.enter(1, 0.0)
    one.change(Quota(requests_per_minute=1))
    with pytest.raises(QuotaExceeded, match="a minute"):  # an unchanged rate goes on from where it was
        one.enter(1, 0.0)
    one.change(Quota(requests_per_minute=2))
    one.enter(1, 0.0)


def test_items_of_jobs_leave_half_of_a_minutes_tokens_for_requests() -> None:
    one = account(tokens_per_minute=100, requests_per_minute=1, max_live=1)
    items = ItemsAccount(one)
    for _ in range(5):
        items.require_place(0.0)
        items.enter(10, 0.0)
    with pytest.raises(QuotaExceeded, match="100 tokens a minute, of which this request may use 10") as refused:
        items.enter(10, 0.0)
    assert 6 <= retry_s(refused) <= 9
    one.enter(50, 0.0)
    with pytest.raises(QuotaExceeded):
        items.enter(10, 30.0)
    items.enter(10, 36.0)


def test_tokens_that_an_item_did_not_use_come_back() -> None:
    one = account(tokens_per_minute=100)
    place = Place(ItemsAccount(one), 50, lambda: 0.0)
    place.leave(5)
    one.enter(95, 0.0)
    assert one.num_live == 1


def test_an_item_larger_than_what_items_may_take_waits_for_a_full_minutes_tokens() -> None:
    one = account(tokens_per_minute=100)
    ItemsAccount(one).enter(80, 0.0)
    with pytest.raises(QuotaExceeded):
        ItemsAccount(one).enter(80, 47.0)
    ItemsAccount(one).enter(80, 48.0)


def test_items_of_a_tenant_without_a_quota_never_wait() -> None:
    for _ in range(1000):
        ItemsAccount(account()).enter(10**9, 0.0)
