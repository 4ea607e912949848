from scheduler_svc.core.cursor import Stage
from tests.simulation import BE, LS, Simulation


def test_a_single_sequence_gets_all_its_tokens_in_order() -> None:
    sim = Simulation()
    sequence = sim.submit(LS, 40, 5)
    sim.run()
    assert sim.tokens(sequence.seq_id) == sim.expected_tokens(sequence)
    sim.check_integrity()
    assert sim.scheduler.memory.pool.num_free == sim.model.num_blocks


def test_a_prompt_longer_than_the_budget_is_computed_in_chunks() -> None:
    sim = Simulation()
    sequence = sim.submit(BE, 1000, 2)
    sim.run()
    assert sim.tokens(sequence.seq_id) == sim.expected_tokens(sequence)
    assert sim.scheduler.counters.num_iterations == 4 + 1


def test_a_latency_sensitive_arrival_stops_best_effort_work_inside_a_layer() -> None:
    sim = Simulation()
    best_effort = sim.submit(BE, 256, 4)
    sim.submit_at(0.02, LS, 20, 3)
    sim.run()
    assert sim.scheduler.counters.num_preemptions_at_expert >= 1
    assert sim.tokens(best_effort.seq_id) == sim.expected_tokens(best_effort)
    assert best_effort.num_preemptions >= 1
    stops = [advance.until.stage for _, _, advance, _ in sim.worker.history]
    assert Stage.EXPERTS in stops


def test_a_preempted_batch_goes_on_from_its_cursor() -> None:
    sim = Simulation()
    sim.submit(BE, 256, 1)
    sim.submit_at(0.02, LS, 20, 3)
    sim.run()
    busy_ns = sim.scheduler.counters.classes[BE].busy_ns
    alone = Simulation()
    alone.submit(BE, 256, 1)
    alone.run()
    assert abs(busy_ns - alone.scheduler.counters.classes[BE].busy_ns) <= 1000  # rounding only: nothing is redone
