"""Whatever comes when, nothing is lost: each sequence gets its own tokens, and every block comes back."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler_svc.core.policies import POLICIES, Limits
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.core.state.sequence import RequestClass, SequenceState, Targets
from scheduler_svc.timeline.step_lanes import StepLanes
from tests.support.core.joining import Joining
from tests.support.core.simulation import BE, LS, NO_TARGETS, Simulation, small_model
from tests.support.core.trace_events import Events

Arrival = tuple[float, RequestClass, int, int, float | None, Targets, float | None, int | None]
OWN = (NO_TARGETS, Targets(ttft_s=0.0, tpot_s=0.0), Targets(ttft_s=0.3), Targets(tpot_s=0.02), Targets(0.1, 0.3))
ARRIVAL = st.tuples(
    st.floats(0, 0.5),
    st.sampled_from((LS, BE)),
    st.integers(1, 120),
    st.integers(1, 12),
    st.none() | st.floats(0, 1.5),
    st.sampled_from(OWN),
    st.none() | st.floats(0, 20),
    st.none() | st.integers(0, 1),
)


def arrival(time_s: float, request_class: RequestClass, num_prompt: int, max_tokens: int) -> Arrival:
    """One that stays to its end and asks for nothing."""
    return time_s, request_class, num_prompt, max_tokens, None, NO_TARGETS, None, None


def play(sim: Simulation, arrivals: list[Arrival]) -> set[int]:
    """Lets the sequences arrive, aborts some of them later, and checks the books at every event."""
    aborted: set[int] = set()

    def arrive(
        request_class: RequestClass,
        num_prompt: int,
        max_tokens: int,
        abort_after_s: float | None,
        own: Targets,
        deadline_s: float | None,
        alike: int | None,
    ) -> None:
        sequence = sim.submit(request_class, num_prompt, max_tokens, targets=own, deadline_s=deadline_s, alike=alike)
        if abort_after_s is not None:
            sim.at(sim.now_s + abort_after_s, lambda: abort(sequence.seq_id))

    def abort(seq_id: int) -> None:
        if sim.scheduler.abort(seq_id, sim.now_s):  # type: ignore[arg-type]
            aborted.add(seq_id)

    for time_s, *rest in arrivals:
        sim.at(time_s, lambda rest=rest: arrive(*rest))
    original = sim._pump

    def checked_pump() -> None:
        original()
        sim.check_integrity()
        sim.check_goes_on()

    sim._pump = checked_pump  # type: ignore[method-assign]
    sim.run()
    return aborted


def assert_all_served(sim: Simulation, aborted: set[int]) -> None:
    for sequence in sim.sequences.values():
        assert sequence.state is SequenceState.FINISHED
        tokens, expected = sim.tokens(sequence.seq_id), sim.expected_tokens(sequence)
        assert tokens == (expected[: len(tokens)] if sequence.seq_id in aborted else expected)
    assert sim.scheduler.batches == ()
    assert sim.scheduler.memory.pool.num_free == sim.model.num_blocks
    assert sim.scheduler.memory.num_free_host_blocks == sim.model.num_host_blocks
    assert not sim.worker.tables
    assert not sim.worker.batches


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    arrivals=st.lists(ARRIVAL, max_size=14),
    policy=st.sampled_from(sorted(POLICIES)),
    preempt_at=st.sampled_from(PreemptAt),
    num_blocks=st.integers(10, 40),
    num_host_blocks=st.sampled_from((0, 5, 1000)),
    max_num_seqs=st.sampled_from((1, 3, 32)),
    ttft_s=st.sampled_from((0.0, 0.0, 0.1)),
    tpot_s=st.sampled_from((0.0, 0.005, 0.03, 0.3)),
    lead_s=st.sampled_from((0.0, 0.001, 0.02)),
)
def test_every_history_serves_all_and_leaks_nothing(
    arrivals: list[Arrival],
    policy: str,
    preempt_at: PreemptAt,
    num_blocks: int,
    num_host_blocks: int,
    max_num_seqs: int,
    ttft_s: float,
    tpot_s: float,
    lead_s: float,
) -> None:
    limits = Limits(
        max_num_seqs=max_num_seqs,
        be_chunk_tokens=40,
        ls_chunk_tokens=64,
        ls_ttft_s=ttft_s,
        ls_tpot_s=tpot_s,
        control_lead_s=lead_s,
    )
    model = small_model(
        num_blocks=num_blocks, num_host_blocks=num_host_blocks, experts_by_layer=(4, 0, 4), num_experts_per_token=4
    )
    events = Events()
    lanes = StepLanes(events, model.experts_by_layer, 1, 0.0)
    sim = Simulation(policy, model=model, limits=limits, preempt_at=preempt_at, observer=lanes, checks_rows=True)
    aborted = play(sim, arrivals)
    assert_all_served(sim, aborted)
    counters = sim.scheduler.counters
    assert len(events.of("preemption")) == counters.num_preemptions_at_expert + counters.num_preemptions_at_layer


@pytest.mark.parametrize("calibrated", [True, False])
def test_scarce_memory_offloads_best_effort_work_and_loses_none_of_it(calibrated: bool) -> None:
    rng = random.Random(7)
    sim = Simulation(model=small_model(num_blocks=24), calibrated=calibrated)
    arrivals = [arrival(0.0, BE, 100, 60) for _ in range(6)]
    arrivals += [arrival(rng.uniform(0.05, 0.6), LS, rng.randint(50, 200), 20) for _ in range(12)]
    aborted = play(sim, arrivals)
    assert sim.scheduler.memory.counters.num_offloads > 0
    assert_all_served(sim, aborted)


def test_joined_batches_finish_together_and_keep_their_own_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POLICIES, "joining", Joining)
    sim = Simulation("joining")
    arrivals = [arrival(0.0, BE, 8, 30) for _ in range(4)] + [arrival(0.01 * i, LS, 8, 5) for i in range(1, 8)]
    aborted = play(sim, arrivals)
    assert sim.scheduler.counters.num_joins > 0
    assert_all_served(sim, aborted)
