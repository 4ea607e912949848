"""When a token is due, and how long an iteration may take so that it is in time."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_svc.core.prediction import promise
from scheduler_svc.core.prediction.promise import RESERVE, STRETCH, Awaited
from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, Sequence, StopConditions, Targets

TPOT_S = 0.05


def sequence(targets: Targets = Targets(), arrival_s: float = 1.0) -> Sequence:  # noqa: B008  # frozen
    one = Sequence(
        SeqId(1),
        RequestClass.LATENCY_SENSITIVE,
        (1,) * 8,
        SamplingParams(),
        StopConditions(99),
        arrival_s,
        targets=targets,
    )
    promise.accept(one, ttft_s=0.2, tpot_s=TPOT_S)
    return one


def test_a_first_token_is_due_its_target_after_the_arrival() -> None:
    assert sequence().due_s == pytest.approx(1.2)


def test_what_a_request_asks_for_itself_goes_before_what_the_service_promises() -> None:
    own = sequence(Targets(ttft_s=0.5, tpot_s=0.0))
    assert (own.due_s, own.tpot_s) == (pytest.approx(1.5), 0.0)
    assert sequence(Targets(tpot_s=0.1)).due_s == pytest.approx(1.2)


def test_token_n_is_due_n_targets_after_the_first_one_so_that_what_a_stream_is_ahead_may_be_spent() -> None:
    one = sequence()
    one.append(7, 1.1)
    for number in range(1, 6):
        assert one.due_s == pytest.approx(1.1 + number * TPOT_S)
        one.append(7, 1.1 + number * 0.01)


def test_what_a_stream_is_late_counts_up_to_one_target() -> None:
    one = sequence()
    one.append(7, 1.1)
    one.append(7, 9.0)  # which was due at 1.15
    assert one.due_s == pytest.approx(9.0)
    one.append(7, 9.01)
    assert one.due_s == pytest.approx(9.05)


def test_the_token_after_the_one_that_is_computed_is_due_a_target_later() -> None:
    one = sequence()
    one.append(7, 1.1)
    assert Awaited.after_next_of(one, 1.12) == (pytest.approx(1.2), 1.12, TPOT_S)


def test_a_stream_with_all_of_its_reserve_gives_an_iteration_all_of_the_target() -> None:
    last_s = 10.0
    awaited = [Awaited(last_s + 0.01 + RESERVE * TPOT_S, last_s, TPOT_S)]
    assert promise.room_s(awaited, 0.01, last_s) == pytest.approx(TPOT_S)


def test_a_stream_without_reserve_goes_on_nearly_as_fast_as_it_can() -> None:
    assert promise.room_s([Awaited(10.0, 10.0, TPOT_S)], 0.01, 10.0) == pytest.approx(0.01 * (1 + STRETCH))


def test_work_that_just_keeps_its_target_bears_a_stretch_beside_it() -> None:
    awaited = [Awaited(10.0, 10.0, TPOT_S)]
    for alone_s in (0.99 * TPOT_S, TPOT_S, 1.01 * TPOT_S):
        assert promise.sustained_s(awaited, alone_s) == pytest.approx(alone_s * (1 + STRETCH))


def test_work_that_misses_its_target_by_itself_may_miss_it_by_as_much_again() -> None:
    awaited = [Awaited(10.0, 10.0, TPOT_S)]
    assert promise.room_s(awaited, 0.06, 10.0) == pytest.approx(0.07)
    assert promise.sustained_s(awaited, 0.06) == pytest.approx(0.07)


def test_nothing_has_room_beside_a_request_that_wants_its_tokens_as_soon_as_possible() -> None:
    asks_for_none = Awaited(10.0, 10.0, 0.0)
    assert promise.room_s([Awaited(11.0, 10.0, TPOT_S), asks_for_none], 0.01, 10.0) <= 0.0
    assert promise.sustained_s([asks_for_none], 0.01) == 0.0
    assert promise.room_s([], 0.01, 10.0) == math.inf


@given(
    ahead_s=st.floats(-1.0, 1.0),
    waited_s=st.floats(0.0, 0.2),
    alone_s=st.floats(1e-4, 1.0),
    tpot_s=st.floats(1e-3, 1.0),
)
def test_whatever_came_before_an_iteration_has_room_for_itself_and_for_no_more_than_is_promised(
    ahead_s: float, waited_s: float, alone_s: float, tpot_s: float
) -> None:
    last_s = 10.0
    token = Awaited(last_s + ahead_s, last_s, tpot_s)
    takes_s = token.latest_end_s(alone_s) - last_s
    assert takes_s >= alone_s - 1e-9  # so that nobody is left out because others are late
    spends_s = max(0.0, ahead_s - RESERVE * tpot_s)
    assert takes_s <= max(tpot_s, 2 * alone_s - tpot_s, alone_s * (1 + STRETCH), spends_s) + 1e-9
    assert promise.room_s([token], alone_s, last_s + waited_s) == pytest.approx(takes_s - waited_s)


@given(alone_s=st.floats(0.001, 0.04), late_s=st.floats(0.0, 100.0))
def test_a_stream_has_its_whole_reserve_again_within_a_stated_number_of_tokens(alone_s: float, late_s: float) -> None:
    one = sequence()
    one.append(7, 1.0)
    now_s = 1.0 + late_s
    one.append(7, now_s)
    for _ in range(math.ceil(_most_tokens(alone_s))):
        now_s = max(now_s + alone_s, Awaited.next_of(one).latest_end_s(alone_s))
        one.append(7, now_s)
    assert one.due_s - one.last_token_s - alone_s >= 0.9 * RESERVE * TPOT_S  # type: ignore[operator]


def _most_tokens(alone_s: float) -> float:
    """Each token gains what it has left to the reserve, in parts of it that the target leaves it."""
    gain = (TPOT_S - alone_s * (1 + STRETCH)) / (RESERVE * TPOT_S)
    return 1 + 3.2 / gain  # by which time nine tenths of any debt are paid, and what was owed at first


@pytest.mark.parametrize(("ttft_s", "within_s"), [(0.0, 0.15), (0.4, 0.4)])
def test_a_first_token_is_in_time_by_its_target_or_as_on_an_idle_worker(ttft_s: float, within_s: float) -> None:
    assert promise.first_token_within_s(sequence(Targets(ttft_s=ttft_s)), idle_s=0.1) == pytest.approx(within_s)


@pytest.mark.parametrize(
    ("times_s", "is_paced"), [((1.1,), None), ((1.1, 1.19, 1.2), True), ((1.1, 1.12, 1.21), False)]
)
def test_an_answer_is_in_time_by_the_mean_of_its_further_tokens(
    times_s: tuple[float, ...], is_paced: bool | None
) -> None:
    one = sequence()
    for at_s in times_s:
        one.append(7, at_s)
    assert promise.is_paced(one) is is_paced
