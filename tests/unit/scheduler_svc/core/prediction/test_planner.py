import pytest

from scheduler_svc.core.prediction.cost_model import UnitCosts
from scheduler_svc.core.prediction.planner import StepPlanner
from scheduler_svc.core.state.cursor import START, Cursor, PreemptAt, Stage

COSTS = UnitCosts(attention_s=3.0, expert_s=1.0, head_s=0.5)
LAYERS = (4, 0, 4)  # the middle one has no mixture
TOTAL_S = 3 * 3.0 + 8 * 1.0 + 0.5
EXPERTS = Stage.EXPERTS


@pytest.mark.parametrize(
    ("start", "room_s", "expected"),
    [
        (START, 0.0, (Cursor(0, EXPERTS, 0), 3.0)),  # one unit at least
        (START, 3.9, (Cursor(0, EXPERTS, 0), 3.0)),
        (START, 5.0, (Cursor(0, EXPERTS, 2), 5.0)),
        (START, 7.0, (Cursor(1), 7.0)),
        (Cursor(0, EXPERTS, 3), 0.0, (Cursor(1), 1.0)),
        (Cursor(1), 0.0, (Cursor(2), 3.0)),
        (Cursor(1), 6.0, (Cursor(2, EXPERTS, 0), 6.0)),
        (Cursor(2, EXPERTS, 3), 0.0, (Cursor(3), 1.5)),  # the head comes with the last expert
        (START, TOTAL_S, (Cursor(3), TOTAL_S)),
        (START, 1e9, (Cursor(3), TOTAL_S)),
    ],
)
def test_a_step_goes_as_far_as_the_room_and_one_unit_at_least(
    start: Cursor, room_s: float, expected: tuple[Cursor, float]
) -> None:
    until, estimate_s = StepPlanner(LAYERS, PreemptAt.EXPERT).within(COSTS, start, room_s)
    assert (until, pytest.approx(estimate_s)) == expected


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (START, (Cursor(0, EXPERTS, 0), 3.0)),
        (Cursor(0, EXPERTS, 1), (Cursor(0, EXPERTS, 2), 1.0)),
        (Cursor(1), (Cursor(2), 3.0)),
        (Cursor(2, EXPERTS, 3), (Cursor(3), 1.5)),
    ],
)
def test_a_step_of_one_unit_ends_at_the_next_stop(start: Cursor, expected: tuple[Cursor, float]) -> None:
    assert StepPlanner(LAYERS, PreemptAt.EXPERT).one_unit(COSTS, start) == expected


def test_a_step_of_one_unit_never_passes_the_place_where_it_should_meet_another() -> None:
    free = UnitCosts(attention_s=1.0, expert_s=0.0, head_s=0.0)  # whose experts are one unit all together
    planner = StepPlanner(LAYERS, PreemptAt.EXPERT)
    assert planner.one_unit(free, Cursor(0, EXPERTS, 0), Cursor(0, EXPERTS, 2))[0] == Cursor(0, EXPERTS, 2)


@pytest.mark.parametrize("preempt_at", PreemptAt)
@pytest.mark.parametrize("start", [START, Cursor(0, EXPERTS, 3), Cursor(1), Cursor(2), Cursor(2, EXPERTS, 1)])
def test_the_rest_of_an_iteration_is_what_fills_endless_room(start: Cursor, preempt_at: PreemptAt) -> None:
    planner = StepPlanner(LAYERS, preempt_at)
    until, estimate_s = planner.rest(COSTS, start)
    assert (until, pytest.approx(estimate_s)) == planner.within(COSTS, start, 1e9)


def test_the_rest_of_an_iteration_still_stops_where_it_should_meet_another() -> None:
    meeting = Cursor(2, EXPERTS, 1)
    planner = StepPlanner(LAYERS, PreemptAt.EXPERT)
    assert planner.rest(COSTS, START, meeting) == planner.within(COSTS, START, 1e9, meeting)


def test_a_step_never_passes_the_place_where_it_should_meet_another() -> None:
    meeting = Cursor(0, EXPERTS, 2)
    assert StepPlanner(LAYERS, PreemptAt.EXPERT).within(COSTS, START, 1e9, meeting)[0] == meeting


def test_steps_of_layers_stop_at_layers_and_cost_what_their_units_cost() -> None:
    planner = StepPlanner(LAYERS, PreemptAt.LAYER)
    assert planner.within(COSTS, START, 0.0) == (Cursor(1), 7.0)
    assert planner.within(COSTS, START, 10.0) == (Cursor(2), 10.0)
    assert planner.within(COSTS, Cursor(2), 0.0) == (Cursor(3), 7.5)


def test_a_step_of_an_iteration_is_the_rest_of_it() -> None:
    planner = StepPlanner(LAYERS, PreemptAt.ITERATION)
    assert planner.within(COSTS, START, 0.0) == (Cursor(3), TOTAL_S)
    assert planner.one_unit(COSTS, Cursor(0, EXPERTS, 2))[1] == TOTAL_S - 5.0


@pytest.mark.parametrize("preempt_at", PreemptAt)
@pytest.mark.parametrize("room_s", [0.0, 2.5, 8.0, 100.0])
def test_steps_one_after_another_cost_the_iteration_once(preempt_at: PreemptAt, room_s: float) -> None:
    planner = StepPlanner(LAYERS, preempt_at)
    at, spent_s = START, 0.0
    while at < planner.end:
        at, cost_s = planner.within(COSTS, at, room_s)
        spent_s += cost_s
    assert spent_s == pytest.approx(TOTAL_S)


def test_a_model_of_many_experts_is_planned_without_a_step_for_each() -> None:
    planner = StepPlanner((128,) * 48, PreemptAt.EXPERT)
    costs = UnitCosts(attention_s=1.0, expert_s=0.0, head_s=0.0)
    assert planner.within(costs, START, 1.0)[0] == Cursor(1)
