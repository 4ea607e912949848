"""What a step did is written down once, and nobody is charged for what was not done."""

from collections.abc import Callable
from itertools import count

import pytest

from scheduler_svc.core.scheduler import Scheduler
from scheduler_svc.core.state.batch import Batch
from scheduler_svc.core.state.cursor import Cursor, Stage
from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.results import StepResult
from scheduler_svc.core.state.sequence import Sequence
from scheduler_svc.core.window import InFlight
from tests.support.core.simulation import BE, LS, Simulation
from tests.unit.scheduler_svc.core.parts import Parts

MS = 1_000_000
End = Callable[[Scheduler, SeqId, float], Sequence | None]


def step_of(parts: Parts, batch: Batch, now_s: float = 0.0) -> InFlight:
    """Sends a step of a batch alone and returns it as it is in flight."""
    parts.work.batches.sort(key=lambda each: each is not batch)
    others, parts.work.batches = parts.work.batches[1:], parts.work.batches[:1]
    assert parts.dispatcher.advance(batch, now_s)
    parts.work.batches += others
    step = parts.dispatcher.window.answer(parts.outbox[-1].command_id, now_s)  # type: ignore[union-attr]
    assert step is not None
    return step


def result_of(step: InFlight, reached: Cursor, duration_ns: int = 10 * MS, idle_ns: int = 0) -> StepResult:
    return StepResult(step.command.command_id, reached, duration_ns, idle_ns)


def test_a_refused_step_costs_best_effort_work_nothing() -> None:
    parts = Parts()
    before_s = parts.work.guard.credit_s
    step = step_of(parts, parts.batch(BE))
    assert parts.work.guard.credit_s == pytest.approx(before_s - step.charged_s)
    assert step.charged_s > 0
    parts.accounts.step_refused(step)
    assert parts.work.guard.credit_s == pytest.approx(before_s)


def test_time_is_split_between_the_classes_by_tokens() -> None:
    parts = Parts()
    for request_class, duration_ns in ((BE, 3 * MS), (LS, 5 * MS)):
        batch = parts.batch(request_class)
        parts.accounts.step_answered(step := step_of(parts, batch), result_of(step, batch.end, duration_ns), 0.1)
        parts.iterations.end(batch, {}, {}, 0.1)
    counters = parts.accounts.counters
    assert (counters.classes[BE].busy_ns, counters.classes[LS].busy_ns, counters.busy_ns) == (3 * MS, 5 * MS, 8 * MS)


def test_idle_time_counts_only_where_the_worker_had_something_to_wait_for() -> None:
    parts = Parts()
    first, second = parts.batch(BE), parts.batch(BE)
    parts.accounts.step_answered(step := step_of(parts, first), result_of(step, first.end, idle_ns=7 * MS), 0.1)
    assert parts.accounts.counters.control_idle_ns == 0  # nothing was there before it
    parts.accounts.step_answered(step := step_of(parts, second), result_of(step, second.end, idle_ns=2 * MS), 0.2)
    assert parts.accounts.counters.control_idle_ns == 2 * MS


@pytest.mark.parametrize(
    ("stood_at", "at_layer", "at_expert"), [(Cursor(1), 1, 0), (Cursor(1, Stage.EXPERTS, 2), 0, 1)]
)
def test_a_batch_that_is_left_standing_was_preempted_once(stood_at: Cursor, at_layer: int, at_expert: int) -> None:
    parts = Parts()
    stopped, arrival = parts.batch(BE), parts.batch(LS)
    parts.accounts.step_answered(step := step_of(parts, stopped), result_of(step, stood_at), 0.1)
    for now_s, layer in ((0.2, 1), (0.3, 2)):
        arrival.issued = Cursor(layer - 1)
        parts.accounts.step_answered(step := step_of(parts, arrival), result_of(step, Cursor(layer)), now_s)
    counters = parts.accounts.counters
    assert (counters.num_preemptions_at_layer, counters.num_preemptions_at_expert) == (at_layer, at_expert)
    assert stopped.members[0].sequence.num_preemptions == 1


def test_a_step_that_was_cut_short_before_it_began_preempts_nobody() -> None:
    parts = Parts()
    running, other = parts.batch(BE), parts.batch(BE)
    parts.accounts.step_answered(step := step_of(parts, running), result_of(step, Cursor(1)), 0.1)
    parts.accounts.step_answered(step := step_of(parts, other), result_of(step, other.reached, 0), 0.1)
    assert parts.accounts.counters.num_preemptions_at_layer == 0
    assert running.members[0].sequence.num_preemptions == 0


def test_queue_time_ends_when_work_began_and_not_before_arrival() -> None:
    parts = Parts()
    batch = parts.batch(BE, num_sequences=2)
    early, late = (member.sequence for member in batch.members)
    late.arrival_s = 0.5
    parts.accounts.note_first_run(batch, 0.4)
    parts.accounts.note_first_run(batch, 0.9)
    assert (early.first_run_s, late.first_run_s) == (0.4, 0.5)


def judged_after(num_tokens: int, end: End) -> tuple[int, int, int, int]:
    """Ends a sequence from outside once it has so many tokens; returns what was paced, in time, judged and attained."""
    sim, until_ms = Simulation(), count()
    sequence = sim.submit(LS, 20, 50)
    while len(sequence.output_token_ids) < num_tokens:
        sim.run(until_s=next(until_ms) * 1e-3)
    assert end(sim.scheduler, sequence.seq_id, sim.now_s) is sequence
    assert end(sim.scheduler, sequence.seq_id, sim.now_s) is None
    sim.run()
    sim.check_integrity()
    counts = sim.scheduler.counters.classes[LS]
    assert counts.num_finished == 1
    return counts.num_paced, counts.num_paced_in_time, counts.num_judged, counts.num_attained


@pytest.mark.parametrize(
    ("num_tokens", "end", "expected"),
    [(5, Scheduler.finish, (1, 1, 1, 1)), (1, Scheduler.finish, (0, 0, 1, 1)), (5, Scheduler.abort, (0, 0, 0, 0))],
)
def test_an_answer_that_its_reader_finds_whole_is_judged_and_an_aborted_one_is_not(
    num_tokens: int, end: End, expected: tuple[int, int, int, int]
) -> None:
    assert judged_after(num_tokens, end) == expected
