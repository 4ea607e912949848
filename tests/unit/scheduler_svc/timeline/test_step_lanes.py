"""What the lanes tell is what the core counted, in virtual time."""

import itertools
from typing import Any

import pytest

from scheduler_svc.core.policies import POLICIES
from scheduler_svc.core.state.commands import Advance
from scheduler_svc.core.state.results import BatchError, StepResult
from scheduler_svc.core.state.sequence import SequenceState
from scheduler_svc.timeline.events import Lane, Process
from scheduler_svc.timeline.step_lanes import StepLanes
from tests.support.core.joining import Joining
from tests.support.core.simulation import BE, LS, Simulation, small_model
from tests.support.core.trace_events import Events


@pytest.fixture
def events() -> Events:
    return Events()


def simulation(events: Events, **changes: Any) -> Simulation:
    return Simulation(observer=StepLanes(events, small_model().experts_by_layer, 1, 0.0), **changes)


def test_every_step_is_a_slice_of_its_class_as_long_as_the_worker_says(events: Events) -> None:
    sim = simulation(events)
    sim.submit(BE, 300, 5)
    sim.run()
    slices = events.steps(Lane.BEST_EFFORT)
    assert len(slices) == sim.scheduler.counters.num_commands
    assert sum(e["dur"] for e in slices) == pytest.approx(sim.scheduler.counters.busy_ns / 1e3, rel=1e-3)
    assert slices[0]["args"]["from"] == "layer 0"
    assert slices[-1]["args"]["to"] == "end"
    assert slices[0]["args"]["num_prefill_sequences"] == 1
    assert slices[-1]["args"]["num_decode_sequences"] == 1
    assert slices[0]["args"]["predicted_ms"] == pytest.approx(slices[0]["args"]["measured_ms"], rel=0.05)


def test_a_stop_inside_a_layer_tells_where_and_the_resume_tells_the_same_place(events: Events) -> None:
    sim = simulation(events)
    sim.submit(BE, 256, 4)
    sim.submit_at(0.02, LS, 20, 3)
    sim.run()
    (stop, *_), (resume, *_) = events.of("preemption"), events.of("resume")
    assert "expert" in stop["args"]["at"]
    assert resume["args"]["at"] == stop["args"]["at"]
    assert stop["tid"] is resume["tid"] is Lane.BEST_EFFORT
    between = [e for e in events.of("step") if stop["ts"] <= e["ts"] < resume["ts"]]
    assert {e["tid"] for e in between} == {Lane.LATENCY_SENSITIVE}


def test_stops_are_as_many_as_the_core_counted(events: Events) -> None:
    sim = simulation(events)
    for i in range(12):
        sim.submit(BE, 200 + 10 * i, 6)
        sim.submit_at(0.05 + 0.11 * i, LS, 20, 4)
    sim.run()
    counters = sim.scheduler.counters
    assert len(events.of("preemption")) == counters.num_preemptions_at_expert + counters.num_preemptions_at_layer
    assert len(events.of("resume")) == len(events.of("preemption"))


def test_a_resume_that_is_called_off_before_it_began_is_no_second_stop(events: Events) -> None:
    sim = simulation(events)
    best_effort, other = sim.submit(BE, 256, 4), sim.submit(BE, 20, 4)
    sim.submit_at(0.02, LS, 20, 1)
    pump = sim._pump

    def pump_and_call_off_what_waits() -> None:
        pump()
        waits = any(isinstance(command, Advance) for command in sim.worker.queue)
        if len(sim.sequences) == 3 and waits and other.state is SequenceState.IN_BATCH:
            sim.scheduler.abort(other.seq_id, sim.now_s)  # has its batch cut short, which is to go on behind the prompt

    sim._pump = pump_and_call_off_what_waits  # type: ignore[method-assign]
    sim.run()
    assert other.state is SequenceState.FINISHED
    assert len(sim.outputs[other.seq_id]) == 0
    assert best_effort.num_preemptions == sim.scheduler.counters.num_preemptions_at_expert == 1
    assert len(events.of("preemption")) == len(events.of("resume")) == 1


def test_steps_of_one_lane_never_overlap(events: Events) -> None:
    sim = simulation(events)
    for i in range(10):
        sim.submit_at(0.03 * i, LS if i % 3 else BE, 60 * (i + 1), 5)
    sim.run()
    for lane in (Lane.LATENCY_SENSITIVE, Lane.BEST_EFFORT):
        slices = events.steps(lane)
        for first, second in itertools.pairwise(slices):
            assert second["ts"] >= first["ts"] + first["dur"] - 0.2


def test_a_join_is_marked_once_and_stands_on_both_lanes(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POLICIES, Joining.name, Joining)
    sim = simulation(events, policy=Joining.name)
    for _ in range(4):
        sim.submit(BE, 20, 30)
    sim.submit_at(0.15, LS, 200, 4)
    sim.run()
    assert sim.scheduler.counters.num_joins > 0
    joins = events.of("join")
    assert joins
    together = [e for e in events.of("step") if len(e["args"]["batches"]) > 1]
    assert {e["tid"] for e in together} == {Lane.LATENCY_SENSITIVE, Lane.BEST_EFFORT}


def test_every_span_of_a_batch_ends_and_those_inside_it_before(events: Events) -> None:
    sim = simulation(events)
    for i in range(8):
        sim.submit_at(0.04 * i, LS if i % 2 else BE, 90, 5)
    sim.run()
    open_spans: dict[str, list[str]] = {}
    for e in events.of("batches"):
        stack = open_spans.setdefault(e["id"], [])
        if e["ph"] == "b":
            stack.append(e["name"])
        else:
            assert stack.pop() == e["name"]
    assert all(not stack for stack in open_spans.values())
    assert all(e["pid"] is Process.BATCHES for e in events.of("batches"))


def test_a_batch_that_fails_ends_its_span(events: Events) -> None:
    sim = simulation(events)
    sim.submit(BE, 20, 3)
    sim._pump()
    (step,) = sim.worker.sent[:1]
    error = BatchError(step.batch_ids[0], (), "unlucky")
    sim.scheduler.update(StepResult(step.command_id, step.until, 1000, batch_errors=(error,)), 0.1)
    assert events.of("batches")[-1]["args"] == {"is_failed": True}


def test_a_batch_that_lost_all_its_sequences_is_not_kept(events: Events) -> None:
    sim = simulation(events)
    first = sim.submit(BE, 256, 2)
    sim.submit(LS, 5, 1)
    sim.at(0.03, lambda: sim.scheduler.abort(first.seq_id, sim.now_s))
    sim.run()
    for i in range(3):
        sim.submit(BE, 20 + i, 2)
    sim.run()
    ends = [e["id"] for e in events.of("batches") if e["ph"] == "e" and e["name"].endswith("batch")]
    begins = [e["id"] for e in events.of("batches") if e["ph"] == "b" and e["name"].endswith("batch")]
    assert sorted(ends) == sorted(begins)


def test_gaps_are_recorded_only_while_work_waited(events: Events) -> None:
    sim = simulation(events)
    sim.submit(BE, 40, 2)
    sim._pump()
    (step,) = sim.worker.sent[:1]
    late = sim.worker.sent[1:]
    sim.scheduler.update(StepResult(step.command_id, step.until, 10**7, idle_ns=5 * 10**9), 6.0)
    assert events.steps(Lane.GAPS) == []  # nobody waited before the first step
    for command in late[:1]:
        sim.scheduler.update(StepResult(command.command_id, command.until, 10**7, idle_ns=3 * 10**6), 6.1)
        (gap,) = events.steps(Lane.GAPS)
        assert gap["dur"] == pytest.approx(3000, rel=0.01)
