"""A request's own targets and its deadline decide for it, in place of what the service promises everybody."""

import pytest

from scheduler_svc.core.policies import Limits
from scheduler_svc.core.starvation import StarvationLimits
from scheduler_svc.core.state.sequence import Sequence, Targets
from tests.support.core.simulation import BE, LS, NO_TARGETS, Simulation

NO_GUARD = StarvationLimits(min_share=0.0, threshold=0)  # it would run best-effort work whatever is promised
ARRIVAL_S = 0.2
MOST_AHEAD_S = 10.0
DECODE_S = 0.012
UNIT_S = 0.01  # longer than any unit of these simulations: by so much a stop may come late


def beside_best_effort_work(own: Targets, num_best_effort: int = 6, **limits: float) -> tuple[Simulation, Sequence]:
    """Lets a request come while best-effort work is under way, and ends shortly after it."""
    sim = Simulation(limits=Limits(control_lead_s=0.0, **limits), starvation=NO_GUARD)  # type: ignore[arg-type]
    for _ in range(num_best_effort):
        sim.submit(BE, 50, 2000)
    arrived: list[Sequence] = []
    sim.at(ARRIVAL_S, lambda: arrived.append(sim.submit(LS, 20, 40, targets=own)))
    until_s = ARRIVAL_S
    while not arrived or arrived[0] in sim.scheduler.sequences:
        until_s += 0.01
        sim.run(until_s)
    return sim, arrived[0]


def ttft_s(sequence: Sequence) -> float:
    assert sequence.first_token_s is not None
    return sequence.first_token_s - sequence.arrival_s


def tpot_s(sequence: Sequence) -> float:
    usage = sequence.usage(0.0)
    return usage.decode_s / (usage.num_output_tokens - 1)


def num_steps_for(sim: Simulation, request_class: object, begin_s: float, end_s: float | None) -> int:
    """Counts the steps that a class had a part in, of those that ran in between."""
    assert end_s is not None
    classes = [
        {sim.sequences[seq_id].request_class for batch in batches for seq_id in batch.items}
        for began_s, ended_s, _, batches in sim.worker.history
        if began_s < end_s and ended_s > begin_s
    ]
    return sum(request_class in each for each in classes)


def test_a_request_that_asks_for_tokens_as_soon_as_possible_is_computed_alone_whatever_is_promised() -> None:
    _, idle = beside_best_effort_work(NO_TARGETS, num_best_effort=0)
    sim, own = beside_best_effort_work(Targets(tpot_s=0.0), ls_tpot_s=0.05)
    assert tpot_s(own) == pytest.approx(tpot_s(idle))
    assert sim.scheduler.counters.num_riders == 0
    assert own.first_run_s is not None
    assert num_steps_for(sim, BE, own.first_run_s, own.last_token_s) == 0


def test_one_that_asks_for_nothing_is_computed_with_best_effort_work_up_to_the_promise() -> None:
    _, idle = beside_best_effort_work(NO_TARGETS, num_best_effort=0)
    sim, served = beside_best_effort_work(NO_TARGETS, ls_tpot_s=0.05)
    assert sim.scheduler.counters.num_riders > 0
    assert tpot_s(idle) < tpot_s(served) <= 0.05


def test_own_time_per_token_takes_best_effort_work_along_where_the_service_promises_none() -> None:
    sim, alone = beside_best_effort_work(NO_TARGETS, ls_tpot_s=0.0)
    assert sim.scheduler.counters.num_riders == 0
    sim, own = beside_best_effort_work(Targets(tpot_s=0.05), ls_tpot_s=0.0)
    assert sim.scheduler.counters.num_riders > 0
    assert tpot_s(alone) < tpot_s(own) <= 0.05


@pytest.mark.parametrize("own_s", [0.3, 1.0])
def test_own_time_to_the_first_token_lets_best_effort_work_go_on_first(own_s: float) -> None:
    _, idle = beside_best_effort_work(NO_TARGETS, num_best_effort=0)
    sim, served = beside_best_effort_work(NO_TARGETS)
    assert ttft_s(served) == pytest.approx(ttft_s(idle), abs=UNIT_S)
    sim, own = beside_best_effort_work(Targets(ttft_s=own_s))
    assert own_s / 2 < ttft_s(own) <= own_s
    assert own.is_first_in_time
    assert own.first_run_s is not None
    assert num_steps_for(sim, BE, ARRIVAL_S, own.first_run_s) > 0
    assert sim.scheduler.counters.classes[BE].num_generated_tokens > 0


def test_own_time_of_zero_to_the_first_token_stops_best_effort_work_whatever_is_promised() -> None:
    _, promised = beside_best_effort_work(NO_TARGETS, ls_ttft_s=1.0)
    _, own = beside_best_effort_work(Targets(ttft_s=0.0), ls_ttft_s=1.0)
    _, idle = beside_best_effort_work(NO_TARGETS, num_best_effort=0)
    assert ttft_s(promised) > 0.5
    assert ttft_s(own) == pytest.approx(ttft_s(idle), abs=UNIT_S)


@pytest.mark.parametrize("own_s", [5.0, 3600.0])
@pytest.mark.parametrize("left_s", [None, 0.1])
@pytest.mark.parametrize("after_s", [0.01, 1.0])
def test_whoever_has_time_for_the_first_token_holds_up_nobody_behind(
    own_s: float, left_s: float | None, after_s: float
) -> None:
    _, idle = beside_best_effort_work(NO_TARGETS, num_best_effort=0)
    sim = Simulation(limits=Limits(control_lead_s=0.0), starvation=NO_GUARD)
    for _ in range(6):
        sim.submit(BE, 50, 500)
    deadline_s = None if left_s is None else ARRIVAL_S + left_s
    sim.at(ARRIVAL_S, lambda: sim.submit(LS, 20, 40, targets=Targets(ttft_s=own_s), deadline_s=deadline_s))
    sim.submit_at(ARRIVAL_S + after_s, LS, 20, 40)
    sim.run()
    *_, has_time, behind = sim.sequences.values()
    assert has_time.is_first_in_time
    assert ttft_s(behind) < 2 * ttft_s(idle) + UNIT_S


# ---- deadlines: one request is computed at a time, so that the others wait for it


def order_of_waiting(
    gap_s: float, left_s: float | None, *, max_tokens: int = 2, own: Targets = NO_TARGETS, first: Targets = NO_TARGETS
) -> str:
    """Lets one request wait, and another one after a gap that has so much time left; returns who is computed first."""
    sim = Simulation(limits=Limits(max_num_seqs=1, control_lead_s=0.0), starvation=NO_GUARD)
    running = sim.submit(LS, 20, int((gap_s + 1) / DECODE_S))
    sim.at(0.1, lambda: sim.submit(LS, 20, 2, targets=first))
    now_s = 0.1 + gap_s
    deadline_s = None if left_s is None else now_s + left_s
    sim.at(now_s, lambda: sim.submit(LS, 20, max_tokens, targets=own, deadline_s=deadline_s))
    sim.run()
    _, earlier, later = sim.sequences.values()
    assert earlier.first_run_s is not None
    assert later.first_run_s is not None
    assert running.last_token_s is not None
    assert running.last_token_s > now_s  # both did wait
    return "earlier" if earlier.first_run_s < later.first_run_s else "later"


def test_those_without_a_deadline_go_in_order_of_arrival() -> None:
    assert order_of_waiting(0.01, None) == "earlier"


@pytest.mark.parametrize("gap_s", [0.01, 1.0, MOST_AHEAD_S - 0.5])
def test_a_near_deadline_goes_ahead_of_earlier_arrivals_without_one(gap_s: float) -> None:
    assert order_of_waiting(gap_s, 0.2) == "later"


def test_nobody_is_passed_by_more_than_ten_seconds() -> None:
    assert order_of_waiting(MOST_AHEAD_S + 0.5, 0.2) == "earlier"


@pytest.mark.parametrize("left_s", [MOST_AHEAD_S + 1.0, 3600.0, 1e9])
def test_a_far_deadline_changes_nothing(left_s: float) -> None:
    assert order_of_waiting(0.01, left_s) == "earlier"


def test_a_deadline_is_near_where_the_answer_is_long_or_slow_enough() -> None:
    # 300 tokens take 15 s at the promised 50 ms a token.
    assert order_of_waiting(0.01, 20.0, max_tokens=300) == "later"
    assert order_of_waiting(0.01, 26.0, max_tokens=300) == "earlier"
    assert order_of_waiting(0.01, 20.0, max_tokens=300, own=Targets(tpot_s=0.001)) == "earlier"


def test_whoever_has_time_for_the_first_token_is_passed_by_those_who_have_none() -> None:
    assert order_of_waiting(0.01, None, first=Targets(ttft_s=5.0)) == "later"
    assert order_of_waiting(0.5, None, first=Targets(ttft_s=0.4)) == "earlier"


def test_a_deadline_of_best_effort_work_changes_nothing() -> None:
    sim = Simulation(limits=Limits(max_num_seqs=1, control_lead_s=0.0), starvation=NO_GUARD)
    sim.submit(BE, 20, 50)
    earlier = sim.submit(BE, 20, 2)
    later = sim.submit(BE, 20, 2, deadline_s=0.1)
    sim.run()
    assert earlier.first_run_s is not None
    assert later.first_run_s is not None
    assert earlier.first_run_s < later.first_run_s
