import pytest

from scheduler_svc.core.policies import Limits
from scheduler_svc.core.state.commands import Advance, Preempt, StartBatch
from scheduler_svc.core.state.cursor import PreemptAt
from tests.support.core.simulation import BE, LS, Simulation, small_model


def test_a_single_sequence_gets_all_its_tokens_in_order() -> None:
    sim = Simulation()
    sequence = sim.submit(LS, 40, 5)
    sim.run()
    assert sim.tokens(sequence.seq_id) == sim.expected_tokens(sequence)
    sim.check_integrity()
    assert sim.scheduler.memory.pool.num_free == sim.model.num_blocks


def test_a_prompt_longer_than_the_budget_is_computed_in_chunks() -> None:
    sim = Simulation()
    sequence = sim.submit(BE, 4000, 2)
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


def test_the_wait_of_an_arrival_ends_when_work_on_it_begins_and_not_when_it_is_sent() -> None:
    sim = Simulation()
    sim.submit(BE, 256, 4)
    sim.submit_at(0.02, LS, 20, 3)
    sim.run()
    (urgent,) = (sequence for sequence in sim.sequences.values() if sequence.request_class is LS)
    begins_s = [begin_s for begin_s, _, _, batches in sim.worker.history if batches[0].request_class is LS]
    assert urgent.first_run_s is not None
    assert urgent.first_run_s == pytest.approx(begins_s[0])
    assert urgent.first_run_s > urgent.arrival_s  # a unit of best-effort work was under way


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


def test_the_next_iteration_is_begun_before_the_last_is_answered_so_that_the_worker_never_waits() -> None:
    sim = Simulation(limits=Limits(control_lead_s=0.001))
    sequence = sim.submit(LS, 40, 12)
    sim.run()
    assert sim.tokens(sequence.seq_id) == sim.expected_tokens(sequence)
    sequels = [c for c in sim.commands if isinstance(c, StartBatch) and any(not item.token_ids for item in c.items)]
    assert len(sequels) == 11
    assert sim.scheduler.counters.control_idle_ns == 0


@pytest.mark.parametrize("policy", ["qllm", "fcfs", "priority-iteration"])
def test_so_is_a_best_effort_one_of_decodes_and_chunks_of_prompts(policy: str) -> None:
    sim = Simulation(policy, limits=Limits(be_chunk_tokens=64, be_max_chunk_tokens=64, control_lead_s=0.001))
    sequences = [sim.submit(BE, num_prompt, 20) for num_prompt in (200, 40, 130)]
    sim.run()
    assert all(sim.tokens(sequence.seq_id) == sim.expected_tokens(sequence) for sequence in sequences)
    begun_early = [c for c in sim.commands if isinstance(c, StartBatch) and sum(not item.token_ids for item in c.items)]
    assert any(len(item.token_ids) > 1 for command in begun_early for item in command.items)
    assert sim.scheduler.counters.control_idle_ns == 0


def test_a_worker_on_cores_is_left_alone_while_it_runs_a_best_effort_iteration() -> None:
    sim = Simulation(model=small_model(computes_on_cpu=True), limits=Limits(control_lead_s=0.001))
    sequence = sim.submit(BE, 40, 12)
    sim.run()
    assert sim.tokens(sequence.seq_id) == sim.expected_tokens(sequence)
    assert all(item.token_ids for c in sim.commands if isinstance(c, StartBatch) for item in c.items)


@pytest.mark.parametrize("before_s", [0.0005, 0.001, 0.0015])
def test_an_arrival_lets_an_iteration_end_whose_sequel_has_begun_and_stops_the_sequel(before_s: float) -> None:
    sim = Simulation(limits=Limits(control_lead_s=0.001))
    best_effort = [sim.submit(BE, 40, 30) for _ in range(3)]
    sim.run(until_s=0.2)
    (*_, (began_s, ended_s, *_)) = sim.worker.history
    ends_s = ended_s + (ended_s - began_s)
    sim.submit_at(ends_s - before_s, LS, 20, 3)
    sim.run(until_s=ends_s - before_s)
    waiting = sim.sequences[4]
    ending, sequel, own = sim.scheduler.batches
    assert ending.sequel is sequel
    assert own.holds(waiting)
    preempt = next(command for command in sim.commands if isinstance(command, Preempt))
    cut_short = [c for c in sim.commands if isinstance(c, Advance) and c.command_id in preempt.command_ids]
    assert [command.batch_ids for command in cut_short] == [(sequel.batch_id,)]
    sim.run()
    assert sim.be_wait_s(waiting) == pytest.approx(before_s, abs=1e-4)
    for sequence in (*best_effort, waiting):
        assert sim.tokens(sequence.seq_id) == sim.expected_tokens(sequence)


def test_a_latency_sensitive_iteration_within_the_window_is_one_command() -> None:
    sim = Simulation(limits=Limits(command_window_s=0.2))
    sim.submit(LS, 40, 6)
    sim.run()
    assert sim.scheduler.counters.num_iterations == 6
    assert sum(isinstance(command, Advance) for command in sim.commands) == 6


def test_a_best_effort_iteration_alone_is_one_command_and_can_still_be_stopped_inside() -> None:
    sim = Simulation(limits=Limits(command_window_s=0.01))
    sim.submit(BE, 3000, 1)
    sim._pump()
    (advance,) = (command for command in sim.commands if isinstance(command, Advance))
    assert sim.scheduler.batches[0].is_issued
    assert advance.preempt_at is PreemptAt.EXPERT
    sim.submit_at(0.02, LS, 20, 3)
    sim.run()
    assert sim.scheduler.counters.num_preemptions_at_expert + sim.scheduler.counters.num_preemptions_at_layer == 1


def test_a_newcomer_takes_part_in_the_iteration_after_the_one_that_runs() -> None:
    sim = Simulation(limits=Limits(control_lead_s=0.001))
    sim.submit(LS, 40, 12)
    sim.submit_at(0.05, LS, 10, 3)
    sim.run()
    together = [set(batches[0].items) for _, _, _, batches in sim.worker.history if len(batches[0].items) == 2]
    assert together
    assert sim.tokens(2) == sim.expected_tokens(sim.sequences[2])


def test_an_overdue_command_is_waited_for_without_a_timer() -> None:
    sim = Simulation()
    sim.submit(LS, 3000, 1)
    sim.scheduler.schedule(0.0)
    assert sim.scheduler.wakeup_s is not None
    sim.scheduler.schedule(60.0)  # the worker stands still; what was sent last has filled the window
    sim.scheduler.schedule(61.0)
    assert sim.scheduler.wakeup_s is None
