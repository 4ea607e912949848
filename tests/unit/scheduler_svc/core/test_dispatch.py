"""How far a step goes, who goes along, and when the next one is due; batches begin by hand and no policy chooses."""

import math

import pytest

from scheduler_svc.core.dispatch import MAX_COMMANDS_IN_FLIGHT
from scheduler_svc.core.state.commands import Advance, Preempt
from scheduler_svc.core.state.cursor import START, Cursor, PreemptAt, Stage
from scheduler_svc.core.state.ids import CommandId
from tests.support.core.simulation import BE, LS
from tests.unit.scheduler_svc.core.parts import EveryoneTogether, Parts

UNIT = Cursor(0, Stage.EXPERTS, 0)  # where the first unit of an iteration ends


def advances(parts: Parts) -> list[Advance]:
    return [command for command in parts.sent() if isinstance(command, Advance)]


def test_a_batch_alone_is_sent_to_the_end_of_its_iteration_and_may_be_stopped_on_the_way() -> None:
    parts = Parts()
    batch = parts.batch(BE)
    assert parts.dispatcher.advance(batch, 0.0)
    assert advances(parts) == [Advance(CommandId(1), (batch.batch_id,), batch.end, PreemptAt.EXPERT)]


def test_batches_that_stand_together_go_on_in_one_step_that_nothing_stops() -> None:
    parts = Parts()
    one, other = parts.batch(BE), parts.batch(BE)
    parts.dispatcher.advance(one, 0.0)
    (command,) = advances(parts)
    assert command.batch_ids == (one.batch_id, other.batch_id)
    assert command.preempt_at is None
    assert other.is_issued
    assert parts.accounts.counters.num_joins == 1


def test_a_step_ends_where_a_companion_stands_ahead() -> None:
    parts = Parts()
    behind, ahead = parts.batch(BE), parts.batch(BE)
    ahead.issued = place = Cursor(2, Stage.EXPERTS, 3)
    parts.dispatcher.advance(behind, 0.0)
    parts.dispatcher.advance(behind, 0.0)
    first, second = advances(parts)
    assert (first.batch_ids, first.until) == ((behind.batch_id,), place)
    assert (second.batch_ids, second.until) == ((behind.batch_id, ahead.batch_id), behind.end)


def test_before_anything_is_known_of_times_one_unit_runs_and_one_is_ready() -> None:
    parts = Parts(calibrated=False)
    batch = parts.batch(BE)
    assert [parts.dispatcher.advance(batch, 0.0) for _ in range(3)] == [True, True, False]
    assert advances(parts)[0].until == UNIT


def test_a_full_window_refuses_a_step_and_says_when_it_has_room() -> None:
    parts = Parts(EveryoneTogether(window_s=0.004))
    batch = parts.batch(BE)
    while parts.dispatcher.advance(batch, 0.0):
        pass
    wakeup_s = parts.dispatcher.wakeup_s
    assert wakeup_s is not None
    assert 0.0 < parts.dispatcher.window.outstanding_s(0.0) <= 0.004 + 1e-6
    assert not parts.dispatcher.advance(batch, wakeup_s - 1e-4)
    assert parts.dispatcher.advance(batch, wakeup_s)


@pytest.mark.parametrize("window_s", [math.inf, math.nan])
def test_a_window_without_an_end_is_refused_by_the_policy_s_name(window_s: float) -> None:
    parts = Parts(EveryoneTogether(window_s))
    batch = parts.batch(BE)
    with pytest.raises(ValueError, match=f"policy everyone-together: its window_s is {window_s}; allowed are a finite"):
        parts.dispatcher.advance(batch, 0.0)


def test_steps_of_no_length_are_not_sent_without_end() -> None:
    parts = Parts()
    batches = [parts.batch(BE) for _ in range(MAX_COMMANDS_IN_FLIGHT)]
    for batch in batches:
        assert parts.dispatcher.has_place
        parts.work.batches = [batch]
        parts.dispatcher.advance(batch, 0.0)
    assert not parts.dispatcher.has_place


def test_a_preempt_goes_ahead_of_what_is_about_to_be_sent() -> None:
    parts = Parts()
    batch = parts.batch(BE)
    parts.dispatcher.advance(batch, 0.0)
    parts.sent()
    parts.batch(LS)
    parts.dispatcher.preempt(0.0)
    parts.dispatcher.preempt(0.0)  # a second arrival finds nothing more to stop
    commands = parts.sent()
    assert commands[0] == Preempt(CommandId(1), CommandId(1))
    assert sum(isinstance(command, Preempt) for command in commands) == 1
    assert batch.is_preempted


def test_a_batch_that_was_cut_short_goes_on_once_all_of_its_steps_are_answered() -> None:
    parts = Parts(calibrated=False)  # so that its steps are short, and two are in flight
    batch = parts.batch(BE)
    while parts.dispatcher.advance(batch, 0.0):
        pass
    parts.dispatcher.preempt(0.0)
    first, second = advances(parts)
    assert parts.dispatcher.answered(first.command_id, 0.1) is not None
    assert not parts.dispatcher.settle(batch, first.until)
    assert parts.dispatcher.answered(second.command_id, 0.1) is not None
    assert parts.dispatcher.settle(batch, first.until)
    assert (batch.issued, batch.is_preempted) == (first.until, False)


@pytest.mark.parametrize("command_id", [2, 77])
def test_an_answer_out_of_turn_is_none(command_id: int) -> None:
    parts = Parts(calibrated=False)
    batch = parts.batch(BE)
    while parts.dispatcher.advance(batch, 0.0):
        pass
    assert parts.dispatcher.answered(CommandId(command_id), 0.1) is None
    assert batch.num_in_flight == 2


def test_a_sequel_is_due_the_lead_and_its_margin_before_the_end() -> None:
    parts = Parts()
    batch = parts.batch(BE)
    parts.dispatcher.advance(batch, 0.0)
    iteration_s = parts.work.iteration_s(batch.shape)
    assert not parts.dispatcher.is_near_end(batch, 0.25, 0.0)
    due_s = 0.75 * iteration_s - parts.work.limits.control_lead_s
    assert parts.dispatcher.wakeup_s == pytest.approx(due_s)
    assert parts.dispatcher.is_near_end(batch, 0.25, due_s)


def test_an_arrival_waits_for_one_unit_at_most_where_a_unit_is_longer_than_the_quantum() -> None:
    parts = Parts()
    assert parts.dispatcher.wait_bound_s == parts.work.limits.preemption_quantum_s
    batch = parts.batch(BE, num_sequences=40)
    costs = parts.work.cost_model.unit_costs(batch.shape)
    unit_s = max(costs.attention_s, costs.expert_s + costs.head_s)
    assert batch.issued == START
    assert parts.dispatcher.wait_bound_s == pytest.approx(unit_s + parts.work.limits.control_lead_s)
