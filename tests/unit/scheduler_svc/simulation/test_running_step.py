"""The arithmetic of a step agrees with walking through its units one by one."""

from hypothesis import given
from hypothesis import strategies as st
from qllm.cost_table import parse_cost_table

from scheduler_svc.core.state.batch import Shape
from scheduler_svc.core.state.cursor import PreemptAt, Stage
from scheduler_svc.simulation.running_step import RunningStep, UnitNumbering
from scheduler_svc.simulation.step_costs import StepCosts

LAYERS, EXPERTS = 3, 4
UNITS = UnitNumbering(LAYERS, EXPERTS)
PLACES = st.integers(0, UNITS.end)


COSTS = StepCosts(
    parse_cost_table(
        {
            "name": "small",
            "source": "a test",
            "num_layers": LAYERS,
            "num_experts": EXPERTS,
            "num_experts_per_token": 2,
            "max_model_len": 4096,
            "num_blocks": 1000,
            "num_host_blocks": 0,
            "attention_us": {"fixed": 1000, "per_token": 10, "per_pair": 0.01},
            "expert_us": {"fixed": 700, "per_token": 20},
            "head_us": {"fixed": 400, "per_row": 30},
        }
    )
)


def step(start: int, until: int, preempt_at: PreemptAt | None = PreemptAt.EXPERT) -> RunningStep:
    shape = Shape(num_tokens=50, num_pairs=2500, num_rows=3)
    return RunningStep(COSTS, UNITS, shape, COSTS.unit_times(shape), 10.0, start, until, preempt_at)


def walked_s(start: int, until: int) -> float:
    times = step(start, until).times
    seconds = sum(
        times.attention_s if UNITS.cursor(place).stage is Stage.ATTENTION else times.expert_s
        for place in range(start, until)
    )
    return seconds + (times.head_s if start < until == UNITS.end else 0.0)


@given(PLACES)
def test_places_and_cursors_are_the_same_thing(place: int) -> None:
    assert UNITS.place(UNITS.cursor(place)) == place


@given(PLACES, PLACES)
def test_a_step_takes_as_long_as_its_units(one: int, other: int) -> None:
    start, until = sorted((one, other))
    running = step(start, until)
    assert abs(running.ends_s - 10.0 - walked_s(start, until)) < 1e-9
    timing = running.timing
    told_s = (timing.attention_ns + timing.expert_ns + timing.head_ns) * 1e-9
    assert abs(told_s - walked_s(start, until)) < 1e-8


@given(PLACES, PLACES, st.floats(0.0, 0.05), st.sampled_from((PreemptAt.EXPERT, PreemptAt.LAYER)))
def test_a_step_cut_short_ends_at_the_first_place_where_it_may(
    one: int, other: int, after_s: float, preempt_at: PreemptAt
) -> None:
    start, until = sorted((one, other))
    running = step(start, until, preempt_at)
    running.cut_short(10.0 + after_s)
    allowed = [
        place
        for place in range(start + 1, until)
        if preempt_at is PreemptAt.EXPERT or UNITS.cursor(place).stage is Stage.ATTENTION
    ]
    expected = next((place for place in allowed if walked_s(start, place) >= after_s), until)
    assert running.until == expected
