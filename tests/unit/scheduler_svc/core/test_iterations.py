"""Iterations begin with members out of the queues, and end with each of them in one place."""

from scheduler_svc.core.policies import BatchPlan
from scheduler_svc.core.state.commands import AddSequence, DropBatch, DropSequence, StartBatch
from scheduler_svc.core.state.ids import BatchId, SeqId
from scheduler_svc.core.state.queues import BE_DECODE, BE_PREFILL, LS_PREFILL
from scheduler_svc.core.state.results import SampledToken, SequenceError, TokenOutput
from scheduler_svc.core.state.sequence import FinishReason, SequenceState, StopConditions
from tests.support.core.simulation import BE, LS
from tests.unit.scheduler_svc.core.parts import Parts

NOBODY_NEW = BatchPlan((), 8)


def test_a_plan_that_nobody_can_run_begins_nothing() -> None:
    parts = Parts()
    assert parts.iterations.form(BatchPlan((BE_PREFILL,), 8)) is None
    assert parts.sent() == []
    assert parts.work.batches == []


def test_the_worker_hears_of_a_sequence_with_its_first_batch_only() -> None:
    parts = Parts()
    batch = parts.batch(BE)
    (member,) = batch.members
    assert [type(command) for command in parts.sent()] == [AddSequence, StartBatch]
    parts.iterations.end(batch, {SeqId(1): SampledToken(SeqId(1), 7, 0.0)}, {}, 0.1)
    following = parts.iterations.form(BatchPlan((BE_DECODE,), 8))
    assert following is not None
    assert following.holds(member.sequence)
    assert [type(command) for command in parts.sent()] == [StartBatch]


def test_a_batch_is_latency_sensitive_as_soon_as_one_member_is() -> None:
    parts = Parts()
    parts.queue(BE)
    parts.queue(LS)
    batch = parts.iterations.form(BatchPlan((BE_PREFILL, LS_PREFILL), 8))
    assert batch is not None
    assert batch.request_class is LS


def test_a_sequence_that_is_in_the_sequel_already_goes_into_no_queue() -> None:
    parts = Parts()
    batch = parts.batch(BE, num_sequences=2)
    one, two = (member.sequence for member in batch.members)
    two.stop = StopConditions(max_tokens=1)  # ends with its first token, so that it has no part in the sequel
    sequel = parts.iterations.form_sequel(batch, NOBODY_NEW)
    assert sequel is not None
    tokens = {each.seq_id: SampledToken(each.seq_id, 7, 0.0) for each in (one, two)}
    outputs = parts.iterations.end(batch, tokens, {}, 0.1)
    assert [output.finish_reason for output in outputs if isinstance(output, TokenOutput)] == [
        None,
        FinishReason.LENGTH,
    ]
    assert (one.state, two.state) == (SequenceState.IN_BATCH, SequenceState.FINISHED)
    assert sequel.holds(one)
    assert len(parts.work.queues[BE_DECODE]) == 0


def test_a_sequence_that_ends_by_a_stop_token_leaves_the_sequel_which_is_dropped_if_that_was_all() -> None:
    parts = Parts()
    batch = parts.batch(BE)
    sequel = parts.iterations.form_sequel(batch, NOBODY_NEW)
    assert sequel is not None
    parts.sent()
    token = SampledToken(SeqId(1), 7, 0.0, FinishReason.STOP)
    parts.iterations.end(batch, {SeqId(1): token}, {}, 0.1)
    assert parts.sent() == [DropSequence(SeqId(1)), DropBatch(sequel.batch_id)]
    assert parts.work.batches == []


def test_an_empty_batch_whose_end_was_sent_is_waited_for() -> None:
    parts = Parts()
    batch = parts.batch(BE)
    batch.issued = batch.end
    parts.lives.end(batch.members[0].sequence)
    assert parts.work.batches == [batch]
    assert not any(isinstance(command, DropBatch) for command in parts.sent())


def test_what_is_not_known_fails_without_a_trace() -> None:
    parts = Parts()
    parts.batch(BE)
    parts.sent()
    assert parts.iterations.fail(BatchId(77), "unlucky") == []
    assert parts.iterations.fail_sequence(SequenceError(SeqId(77), "unlucky")) == []
    assert parts.sent() == []
    assert len(parts.work.sequences) == 1
