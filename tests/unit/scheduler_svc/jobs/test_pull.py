import math

from scheduler_svc.jobs.pull import BestEffortLoad, Pull


def numbers(pull: Pull, load: BestEffortLoad, times: int) -> list[int]:
    """Claims so often, and finds as many as wanted."""
    wanted = []
    for _ in range(times):
        wanted.append(pull.number(load, sum(wanted), 0.0))
        pull.claimed(wanted[-1], wanted[-1])
    return wanted


def test_it_asks_for_twice_as_many_until_there_is_work_enough() -> None:
    pull = Pull(ahead_s=10, max_items=1000)
    assert numbers(pull, BestEffortLoad(is_ready=True, wait_s=9.9), 8) == [1, 2, 4, 8, 16, 32, 64, 64]
    assert pull.number(BestEffortLoad(is_ready=True, wait_s=10), 0, 0.0) == 0
    assert pull.number(BestEffortLoad(is_ready=True), 0, 0.0) == 1


def test_it_never_has_more_items_than_it_may() -> None:
    pull = Pull(ahead_s=10, max_items=5)
    assert numbers(pull, BestEffortLoad(is_ready=True), 5) == [1, 2, 2, 0, 0]


def test_it_begins_small_again_where_there_was_less_than_wanted() -> None:
    pull = Pull(ahead_s=10, max_items=100)
    assert numbers(pull, BestEffortLoad(is_ready=True), 3) == [1, 2, 4]
    pull.claimed(8, 7)
    assert pull.number(BestEffortLoad(is_ready=True), 14, 0.0) == 1


def test_it_claims_nothing_without_a_worker_during_a_pause_or_of_unknown_cost() -> None:
    pull = Pull(ahead_s=10, max_items=100)
    assert pull.number(BestEffortLoad(is_ready=False), 0, 0.0) == 0
    assert pull.number(BestEffortLoad(is_ready=True, wait_s=math.inf), 0, 0.0) == 0
    pull.pause(5.0)
    pull.pause(3.0)
    assert pull.number(BestEffortLoad(is_ready=True), 0, 4.9) == 0
    assert pull.number(BestEffortLoad(is_ready=True), 0, 5.0) == 1
