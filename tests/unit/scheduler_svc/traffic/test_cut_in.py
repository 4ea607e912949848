"""A latency-sensitive prompt cuts into any iteration that carries best-effort work, and not without end."""

from itertools import pairwise

import pytest

from scheduler_svc.core.policies import Limits
from scheduler_svc.core.starvation import StarvationLimits
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.core.state.sequence import Sequence, SequenceState
from scheduler_svc.core.workload import MOST_PASSED
from tests.support.core.simulation import BE, LS, SimBatch, Simulation, small_model

NO_GUARD = StarvationLimits(min_share=0.0, threshold=0)


def riding(preempt_at: PreemptAt = PreemptAt.EXPERT, lead_s: float = 0.0) -> tuple[Simulation, Sequence]:
    """A latency-sensitive answer in whose iterations eight best-effort sequences ride."""
    limits = Limits(control_lead_s=lead_s)
    sim = Simulation(limits=limits, starvation=NO_GUARD, preempt_at=preempt_at)
    for _ in range(8):
        sim.submit(BE, 8, 3000)
    sim.run(until_s=0.3)
    answer = sim.submit(LS, 8, 400)
    sim.run(until_s=1.5)
    assert len(running(sim).items) == 9
    return sim, answer


def running(sim: Simulation) -> SimBatch:
    assert sim.worker.running is not None
    return sim.worker.running.batches[0]


def unit_s(sim: Simulation, batch: SimBatch) -> float:
    """The longest unit of a batch: an attention stage, or one expert and the head."""
    tokens = sum(item.num_tokens for item in batch.items.values())
    pairs = sum(item.num_tokens * (item.first_position + item.num_tokens) for item in batch.items.values())
    a, e, h = sim.worker.costs.attention, sim.worker.costs.expert, sim.worker.costs.head
    return 1e-3 * max(a[0] + a[1] * tokens + a[2] * pairs, e[0] + e[1] * tokens + h[0] + h[1] * len(batch.items))


@pytest.mark.parametrize("after_s", [0.004 * step for step in range(6)])
def test_an_arrival_during_a_joint_iteration_waits_for_one_unit_at_most(after_s: float) -> None:
    sim, _ = riding()
    sim.run(until_s=sim.now_s + after_s)
    sim.now_s = 1.5 + after_s
    longest_s = unit_s(sim, running(sim))
    arrival = sim.submit(LS, 40, 1)
    sim.run(until_s=sim.now_s + 1.0)
    begins_s = next(begin for begin, _, _, batches in sim.worker.history if arrival.seq_id in batches[0].items)
    assert begins_s - arrival.arrival_s <= longest_s + 1e-4


def test_who_was_cut_into_goes_on_from_there_and_all_tokens_are_its_own() -> None:
    sim, answer = riding()
    for number in range(30):
        sim.submit_at(1.5 + 0.117 * number, LS, 20, 2)
    sim.run(until_s=30.0)
    counters = sim.scheduler.counters
    assert counters.num_preemptions_at_expert + counters.num_preemptions_at_layer > 20
    for sequence in (s for s in sim.sequences.values() if s.request_class is LS):
        assert sim.tokens(sequence.seq_id) == sim.expected_tokens(sequence)
    assert len(sim.token_times_s[answer.seq_id]) == 400


def test_one_iteration_is_passed_a_stated_number_of_times_at_most_however_many_arrive() -> None:
    sim, answer = riding()
    for number in range(200):
        sim.submit_at(1.5 + 0.003 * number, LS, 30, 1)
    sim.run(until_s=30.0)
    times_s = sim.token_times_s[answer.seq_id]
    others = []
    for before_s, after_s in pairwise(times_s):
        ran = {id(batches[0]) for begin_s, _, _, batches in sim.worker.history if before_s <= begin_s < after_s}
        others.append(len(ran) - 1)  # all but its own iteration
    assert max(others) == MOST_PASSED


def test_what_stops_nowhere_is_not_cut_into() -> None:
    sim, _ = riding(PreemptAt.ITERATION)
    assert sim.worker.running is not None
    sim.now_s, ends_s = sim.now_s + 0.001, sim.worker.running.ends_s
    sim.submit(LS, 40, 1)
    sim.run(until_s=ends_s - 1e-6)
    assert len([batch for batch in sim.scheduler.batches if batch.request_class is LS]) == 1  # no second one is begun


@pytest.mark.parametrize("after_s", [0.006 * step for step in range(4)])
@pytest.mark.parametrize("ttft_s", [0.12, 0.14])
def test_of_two_iterations_that_carry_best_effort_work_neither_stops_the_other_again_and_again(
    ttft_s: float, after_s: float
) -> None:
    sim = Simulation(limits=Limits(control_lead_s=0.0, ls_ttft_s=ttft_s), starvation=NO_GUARD)
    for _ in range(60):
        sim.submit(BE, 8, 3000)
    sim.run(until_s=0.5)
    sim.submit(LS, 8, 400)
    sim.run(until_s=3.0 + after_s)
    sim.now_s, num_before = 3.0 + after_s, len(sim.worker.history)
    arrival = sim.submit(LS, 60, 1)
    sim.run(until_s=6.0)
    ran = [number for number, entry in enumerate(sim.worker.history) if arrival.seq_id in entry[3][0].items]
    assert ran[-1] - num_before <= 8  # steps until it had its token
    assert arrival.is_first_in_time


@pytest.mark.parametrize("num_spare_blocks", [0, 2, 4, 8])
def test_who_rides_in_an_iteration_that_was_cut_into_keeps_its_blocks(num_spare_blocks: int) -> None:
    model = small_model(num_blocks=70 + num_spare_blocks)
    sim = Simulation(limits=Limits(control_lead_s=0.0), starvation=NO_GUARD, model=model)
    for _ in range(4):
        sim.submit(BE, 8, 200)
    sim.run(until_s=0.3)
    sim.submit(LS, 8, 200)
    sim.run(until_s=1.0)
    for number in range(20):
        sim.submit_at(1.0 + 0.11 * number, LS, 900, 2)

    def check() -> None:
        for batch in (batch for batch in sim.scheduler.batches if batch.request_class is LS):
            assert batch.is_resident, "a latency-sensitive iteration lost a member's cache while it stood"

    for step in range(600):
        sim.at(1.0 + 0.01 * step, check)
    sim.run(until_s=60.0)
    assert sim.scheduler.memory.counters.num_offloads > 0
    assert all(s.state is SequenceState.FINISHED for s in sim.sequences.values() if s.request_class is LS)


@pytest.mark.parametrize("lead_s", [0.001, 0.01])
def test_with_a_sequel_begun_the_arrival_waits_for_the_end_that_is_near_and_goes_ahead_of_the_sequel(
    lead_s: float,
) -> None:
    sim, _ = riding(lead_s=lead_s)
    waits_s = []
    for number in range(40):
        sim.submit_at(1.6 + 0.0513 * number, LS, 8, 1)
    sim.run(until_s=30.0)
    for arrival in (s for s in sim.sequences.values() if s.request_class is LS and s.arrival_s > 1.55):
        begins_s = next(begin for begin, _, _, batches in sim.worker.history if arrival.seq_id in batches[0].items)
        waits_s.append(begins_s - arrival.arrival_s)
    iteration_s = max(end - begin for begin, end, _, batches in sim.worker.history if len(batches[0].items) == 9)
    assert max(waits_s) <= 0.3 * iteration_s + lead_s + 1e-3
