"""R6: best-effort work advances whatever the other class does."""

import pytest

from scheduler_svc.core.policies import Limits
from scheduler_svc.core.starvation import StarvationGuard, StarvationLimits
from tests.support.core.simulation import BE, LS, Simulation

# Nobody is taken along: what is measured is the guard.
ALONE = Limits(ls_tpot_s=0.0, control_lead_s=0.0)


def saturate(sim: Simulation, seconds: float) -> None:
    """Keeps six latency-sensitive requests of different lengths live: each that ends is followed by another."""

    def again() -> None:
        live = sum(s.request_class is LS for s in sim.scheduler.sequences)
        for i in range(6 - live):
            sim.submit(LS, 50, 6 + 3 * i)
        if sim.now_s < seconds:
            sim.at(sim.now_s + 0.002, again)

    sim.at(0.0, again)
    for _ in range(50):
        sim.submit(BE, 300, 50)
    sim.run(until_s=seconds)


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_best_effort_work_gets_its_share_while_the_other_class_saturates_the_worker(share: float) -> None:
    sim = Simulation(starvation=StarvationLimits(min_share=share), limits=ALONE)
    saturate(sim, 20.0)
    counters = sim.scheduler.counters
    measured = counters.classes[BE].busy_ns / counters.busy_ns
    assert share * 0.98 <= measured <= share * 1.3 + 0.02
    assert sim.scheduler.work.guard.share(sim.now_s) == pytest.approx(measured, rel=0.3)


def test_without_a_share_age_alone_keeps_best_effort_work_going() -> None:
    sim = Simulation(starvation=StarvationLimits(min_share=0.0, threshold=50, promotion_quantum=3), limits=ALONE)
    saturate(sim, 20.0)
    assert sim.scheduler.work.guard.num_promotions >= 2
    assert sim.scheduler.counters.classes[BE].busy_ns > 0


def test_with_neither_best_effort_work_waits() -> None:
    sim = Simulation(starvation=StarvationLimits(min_share=0.0, threshold=0), limits=ALONE)
    saturate(sim, 5.0)
    assert sim.scheduler.counters.classes[BE].busy_ns < 0.02 * sim.scheduler.counters.busy_ns


def test_credit_is_bounded_by_what_the_window_holds() -> None:
    guard = StarvationGuard(StarvationLimits(min_share=0.1, window_s=2.0))
    for i in range(100):
        guard.record(float(i), 1.0, 0.0, be_waits=True)
    assert guard.credit_s == pytest.approx(0.2)
    for i in range(100):
        guard.record(100.0 + i, 1.0, 1.0, be_waits=False)
    assert guard.credit_s == pytest.approx(-0.2)


def test_nothing_is_owed_while_no_best_effort_work_waits() -> None:
    guard = StarvationGuard(StarvationLimits(min_share=0.1))
    guard.record(1.0, 5.0, 0.0, be_waits=False)
    assert guard.credit_s == 0.0


def test_what_is_sent_counts_as_paid_until_it_is_measured() -> None:
    guard = StarvationGuard(StarvationLimits(min_share=0.1))
    guard.record(1.0, 5.0, 0.0, be_waits=True)
    guard.spend(0.3)
    assert guard.credit_s == pytest.approx(0.2)
    guard.settle(0.3)
    assert guard.credit_s == pytest.approx(0.5)


def test_the_share_forgets_what_left_the_window() -> None:
    guard = StarvationGuard(StarvationLimits(window_s=10.0))
    guard.record(1.0, 1.0, 1.0, be_waits=False)
    guard.record(9.0, 1.0, 0.0, be_waits=False)
    assert guard.share(9.0) == pytest.approx(0.5)
    assert guard.share(12.0) == pytest.approx(0.0)
    assert guard.share(30.0) == 0.0


def test_best_effort_work_rides_where_the_other_class_would_have_the_worker_to_itself() -> None:
    tokens = {}
    for tpot_s in (0.0, 0.1):
        sim = Simulation(limits=Limits(ls_tpot_s=tpot_s))
        saturate(sim, 20.0)
        tokens[tpot_s] = {c: sim.scheduler.counters.classes[c].num_generated_tokens for c in (LS, BE)}
    assert tokens[0.1][BE] > 3 * tokens[0.0][BE]
