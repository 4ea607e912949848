"""Failures and endings that come while other commands are on their way."""

from scheduler_svc.core.state.commands import Advance, DropBatch, DropSequence, Preempt
from scheduler_svc.core.state.cursor import Cursor, Stage
from scheduler_svc.core.state.ids import BatchId, CommandId, SeqId
from scheduler_svc.core.state.results import (
    BatchError,
    FailureOutput,
    SampledToken,
    SequenceError,
    StepResult,
    TokenOutput,
)
from scheduler_svc.core.state.sequence import FinishReason
from tests.support.core.simulation import BE, LS, Simulation


def begun(*classes: object) -> Simulation:
    """A simulation whose first commands are out and not answered."""
    sim = Simulation()
    for request_class in classes:
        sim.submit(request_class, 20, 3)  # type: ignore[arg-type]
    sim._pump()
    return sim


def result_of(sim: Simulation, **changes: object) -> StepResult:
    command = sim.worker.sent[0]
    return StepResult(command.command_id, command.until, 1000, **changes)  # type: ignore[arg-type]


def test_a_failed_batch_ends_its_sequences_and_gives_their_blocks_back() -> None:
    sim = begun(BE, BE)
    batch_id = sim.worker.sent[0].batch_ids[0]
    error = BatchError(batch_id, (SeqId(1), SeqId(2)), "unlucky")
    outputs = sim.scheduler.update(result_of(sim, batch_errors=(error,)), 0.1)
    assert outputs == [FailureOutput(SeqId(1), "unlucky"), FailureOutput(SeqId(2), "unlucky")]
    assert sim.scheduler.memory.pool.num_free == sim.model.num_blocks
    commands = sim.scheduler.schedule(0.1)
    assert DropBatch(batch_id) in commands
    assert {c.seq_id for c in commands if isinstance(c, DropSequence)} == {1, 2}


def test_a_sequence_that_the_worker_left_out_ends_and_its_batch_goes_on() -> None:
    sim = begun(BE, BE)
    told = SequenceError(SeqId(2), "token 999 is outside")
    errors = (told, told, SequenceError(SeqId(77), "long gone"))
    outputs = sim.scheduler.update(
        result_of(sim, tokens=(SampledToken(SeqId(1), 20, 0.0),), sequence_errors=errors), 0.1
    )
    assert outputs[0] == FailureOutput(SeqId(2), "token 999 is outside")
    assert [output.seq_id for output in outputs] == [2, 1]
    assert [sequence.seq_id for sequence in sim.scheduler.sequences] == [1]
    commands = sim.scheduler.schedule(0.1)
    assert DropSequence(SeqId(2)) in commands
    assert not any(isinstance(command, Preempt | DropBatch) for command in commands)
    sim.check_integrity()


def test_a_batch_whose_last_member_was_left_out_is_dropped_unless_its_end_is_on_its_way() -> None:
    error = SequenceError(SeqId(1), "unlucky")
    whole = begun(BE)  # sent to its end
    whole.scheduler.update(result_of(whole, sequence_errors=(error,)), 0.1)
    assert not whole.scheduler.batches
    assert not any(isinstance(command, DropBatch) for command in whole.scheduler.schedule(0.1))
    part = Simulation(calibrated=False)
    part.submit(BE, 256, 1)
    part._pump()
    part.scheduler.update(result_of(part, sequence_errors=(error,)), 0.1)
    assert any(isinstance(command, DropBatch) for command in part.scheduler.schedule(0.1))
    assert part.scheduler.memory.pool.num_free == part.model.num_blocks


def test_a_refused_step_ends_the_sequences_of_its_batches_and_others_go_on() -> None:
    sim = begun(BE)
    other = sim.submit(LS, 20, 3)
    outputs = sim.scheduler.refuse(sim.worker.sent[0].command_id, "what batch?", 0.1)
    assert outputs == [FailureOutput(SeqId(1), "what batch?")]
    assert sim.scheduler.sequences == (other,)


def test_answers_to_unknown_commands_change_nothing() -> None:
    sim = begun(BE)
    stranger = StepResult(CommandId(999), sim.worker.sent[0].until, 1000)
    assert sim.scheduler.update(stranger, 0.1) == []
    assert sim.scheduler.refuse(CommandId(999), "", 0.1) == []
    assert len(sim.scheduler.window) > 0


def test_an_error_of_an_unknown_batch_changes_nothing() -> None:
    sim = begun(BE)
    assert sim.scheduler.update(result_of(sim, batch_errors=(BatchError(BatchId(77), (), ""),)), 0.1) == []
    assert len(sim.scheduler.sequences) == 1


def test_aborting_the_only_member_drops_the_batch_and_frees_its_blocks_at_once() -> None:
    sim = Simulation(calibrated=False)  # part of the iteration is sent
    sim.submit(BE, 256, 1)
    sim._pump()
    aborted = sim.scheduler.abort(SeqId(1), 0.0)
    assert aborted is not None
    assert sim.scheduler.abort(SeqId(1), 0.0) is None
    assert sim.scheduler.memory.pool.num_free == sim.model.num_blocks
    commands = sim.scheduler.schedule(0.0)
    assert [type(c) for c in commands] == [Preempt, DropSequence, DropBatch]
    assert sim.scheduler.batches == ()


def test_aborting_stops_even_an_iteration_that_was_sent_to_its_end() -> None:
    sim = begun(BE)
    assert sim.scheduler.batches[0].is_issued
    sim.scheduler.abort(SeqId(1), 0.0)
    sim.run()
    assert sim.worker.free_at_s < 0.01
    assert sim.scheduler.batches == ()
    assert not sim.worker.batches
    assert not sim.worker.tables


def test_a_late_token_of_an_aborted_sequence_is_dropped() -> None:
    sim = Simulation("fcfs")  # whole iterations: the end of the batch is on its way
    sim.submit(LS, 20, 3)
    sim._pump()
    sim.scheduler.abort(SeqId(1), 0.0)
    assert sim.scheduler.update(result_of(sim, tokens=(SampledToken(SeqId(1), 5, 0.0),)), 0.1) == []
    assert sim.scheduler.batches == ()


def test_the_workers_finish_reason_ends_a_sequence_before_its_limit() -> None:
    sim = Simulation("fcfs")
    sim.submit(LS, 20, 3)
    sim._pump()
    token = SampledToken(SeqId(1), 5, -0.1, FinishReason.STOP)
    (output,) = sim.scheduler.update(result_of(sim, tokens=(token,)), 0.1)
    assert isinstance(output, TokenOutput)
    assert output.finish_reason is FinishReason.STOP
    assert output.usage is not None
    assert (output.usage.num_prompt_tokens, output.usage.num_output_tokens) == (20, 1)
    assert output.usage.queue_s + output.usage.prefill_s == 0.1


def test_usage_of_a_sequence_that_never_ran_is_all_waiting() -> None:
    sim = Simulation()
    usage = sim.submit(BE, 20, 3).usage(2.0)
    assert (usage.queue_s, usage.prefill_s, usage.decode_s, usage.num_output_tokens) == (2.0, 0.0, 0.0, 0)


def test_a_core_that_knows_no_times_yet_sends_one_unit_and_keeps_one_ready() -> None:
    sim = Simulation(calibrated=False)
    sim.submit(BE, 20, 3)
    sim._pump()
    advances = [command for command in sim.commands if isinstance(command, Advance)]
    assert [advance.until for advance in advances] == [Cursor(0, Stage.EXPERTS), Cursor(1)]
    sim.run()
    assert sim.tokens(1) == sim.expected_tokens(sim.sequences[1])


def test_the_exported_bound_is_the_quantum_or_a_unit_and_the_lead() -> None:
    sim = begun(BE)
    assert sim.scheduler.wait_bound_s == sim.scheduler.limits.preemption_quantum_s
    slow = Simulation()
    slow.submit(BE, 3000, 1)
    slow._pump()
    assert slow.scheduler.wait_bound_s > 0.005
