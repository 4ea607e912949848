"""R1: how long an arrival waits for running best-effort work, in virtual time."""

import random

import pytest

from scheduler_svc.core.policies import Limits
from scheduler_svc.core.starvation import StarvationLimits
from scheduler_svc.core.state.cursor import PreemptAt
from tests.support.core.simulation import BE, LS, Costs, Simulation

NO_SHARE = StarvationLimits(min_share=0.0, threshold=0)
EPSILON_S = 1e-4  # the cost model is fitted, not told


def flood(sim: Simulation, seed: int, num_arrivals: int = 40) -> None:
    """Keeps best-effort work waiting, of all sizes, and lets latency-sensitive requests arrive at random."""
    rng = random.Random(seed)
    for _ in range(60):
        sim.submit(BE, rng.choice((3, 40, 300, 1500)), rng.randint(1, 40))
    for i in range(num_arrivals):
        sim.submit_at(0.05 + i * 0.3 + rng.uniform(0, 0.3), LS, rng.randint(1, 200), rng.randint(1, 8))


def longest_unit_s(sim: Simulation) -> float:
    """The longest attention stage or single expert of any best-effort batch that ran."""
    worst_s = 0.0
    for _, _, _, batches in sim.worker.history:
        for batch in (b for b in batches if b.request_class is BE):
            tokens = sum(i.num_tokens for i in batch.items.values())
            pairs = sum(i.num_tokens * (i.first_position + i.num_tokens) for i in batch.items.values())
            a, e, h = sim.worker.costs.attention, sim.worker.costs.expert, sim.worker.costs.head
            attention = a[0] + a[1] * tokens + a[2] * pairs
            expert = e[0] + e[1] * tokens + h[0] + h[1] * len(batch.items)
            worst_s = max(worst_s, attention * 1e-3, expert * 1e-3)
    return worst_s


@pytest.mark.parametrize("quantum_ms", [1.0, 5.0, 20.0])
@pytest.mark.parametrize("seed", range(4))
def test_an_arrival_waits_at_most_the_quantum_or_one_unit_of_best_effort_work(quantum_ms: float, seed: int) -> None:
    limits = Limits(preemption_quantum_s=quantum_ms / 1e3, control_lead_s=0.0)
    sim = Simulation(limits=limits, starvation=NO_SHARE)
    flood(sim, seed)
    sim.run()
    bound_s = max(quantum_ms / 1e3, longest_unit_s(sim)) + EPSILON_S
    waits = [sim.be_wait_s(s) for s in sim.sequences.values() if s.request_class is LS]
    assert len(waits) == 40
    assert max(waits) <= bound_s
    assert max(waits) > 0  # the load was real


@pytest.mark.parametrize("seed", range(3))
def test_units_longer_than_the_quantum_are_waited_for_one_at_a_time(seed: int) -> None:
    slow = Costs(attention=(4.0, 0.2, 2e-5), expert=(6.0, 0.3))
    sim = Simulation(limits=Limits(control_lead_s=0.0), costs=slow, starvation=NO_SHARE)
    flood(sim, seed)
    sim.run(until_s=20.0)
    unit_s = longest_unit_s(sim)
    assert unit_s > 0.005
    assert (
        max(sim.be_wait_s(s) for s in sim.sequences.values() if s.first_run_s and s.request_class is LS)
        <= unit_s * 1.01
    )


@pytest.mark.parametrize(("preempt_at", "layers"), [(PreemptAt.LAYER, 1), (PreemptAt.ITERATION, 4)])
def test_a_coarser_granularity_waits_for_one_layer_or_one_iteration(preempt_at: PreemptAt, layers: int) -> None:
    sim = Simulation(preempt_at=preempt_at, starvation=NO_SHARE)
    flood(sim, 1)
    sim.run()
    spans_s = [end - begin for begin, end, _, batches in sim.worker.history if batches[0].request_class is BE]
    waits = [sim.be_wait_s(s) for s in sim.sequences.values() if s.request_class is LS]
    assert max(waits) <= max(spans_s) + EPSILON_S
    for _, _, advance, _ in sim.worker.history:
        assert advance.until.expert == 0
        if preempt_at is PreemptAt.ITERATION:
            assert advance.until.layer == layers
    assert max(waits) > 0.005  # which is what a finer granularity avoids


@pytest.mark.parametrize("num_queued", [0, 2000])
def test_the_wait_does_not_grow_with_the_best_effort_queue(num_queued: int) -> None:
    sim = Simulation(starvation=NO_SHARE)
    for _ in range(num_queued + 40):
        sim.submit(BE, 200, 10)
    sim.submit_at(0.123, LS, 30, 2)
    sim.run(until_s=1.0)
    arrival = next(s for s in sim.sequences.values() if s.request_class is LS)
    assert sim.be_wait_s(arrival) <= 0.005 + longest_unit_s(sim)
    assert len(sim.outputs[arrival.seq_id]) == 2


def test_with_a_share_an_arrival_waits_for_the_bound_and_no_more_than_the_share_of_its_wait() -> None:
    sim = Simulation(starvation=StarvationLimits(min_share=0.1))
    for _ in range(100):
        sim.submit(BE, 400, 20)
    rng = random.Random(5)
    for _ in range(300):
        sim.submit_at(rng.uniform(0, 6), LS, 60, 10)
    sim.run(until_s=20)
    unit_s = longest_unit_s(sim)
    for s in (s for s in sim.sequences.values() if s.request_class is LS and s.first_run_s is not None):
        waited_s = s.first_run_s - s.arrival_s  # type: ignore[operator]
        assert sim.be_wait_s(s) <= 0.005 + unit_s + 2 * 0.1 * waited_s + EPSILON_S
