"""A trace is read whole, cut off, or not at all; and the view shows what was asked for."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from qllm.client.bench.commands.timeline import best_story, choose_view
from qllm.client.bench.errors import BadFile, BenchError
from qllm.client.bench.results.recorded_trace import BE, LS, RecordedTrace, read_trace

from scheduler_svc.timeline.step_lanes import StepLanes
from scheduler_svc.timeline.timeline import Timeline
from scheduler_svc.timeline.trace_file import TraceFile
from tests.support.core.simulation import BE as CORE_BE
from tests.support.core.simulation import LS as CORE_LS
from tests.support.core.simulation import Simulation, small_model

Write = Callable[[str], Path]


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A trace of a simulated worker whose best-effort prompts are stopped by three arrivals."""
    path = tmp_path / "trace.json"
    with TraceFile(path, 1 << 20) as file:
        Timeline(file, 0.0)
        sim = Simulation(observer=StepLanes(file, small_model().experts_by_layer, 1, 0.0))
        sim.submit(CORE_BE, 2000, 3)
        for i in range(3):
            sim.submit_at(0.02 + 0.1 * i, CORE_LS, 20, 3)
        sim.run()
    return path


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_text(text: str) -> Path:
        path = tmp_path / "written.json"
        path.write_text(text)
        return path

    return write_text


def shown(trace: RecordedTrace) -> tuple[int, int]:
    return len(trace.steps), len(trace.stops)


def test_steps_and_stops_come_back_with_class_and_place(recorded: Path) -> None:
    trace = read_trace(recorded)
    assert trace.num_layers == 4
    assert {step.lane for step in trace.steps} == {LS, BE}
    assert len(trace.stops) == 3
    stop = best_story(trace)
    before = [step for step in trace.steps if stop.batch_id in step.batch_ids and step.end_ms <= stop.begin_ms + 1e-3]
    after = [step for step in trace.steps if stop.batch_id in step.batch_ids and step.begin_ms >= stop.begin_ms]
    assert before[-1].to_depth == after[0].from_depth  # it goes on from the same place


def test_a_trace_that_was_cut_off_is_read_up_to_there(recorded: Path, write: Write) -> None:
    whole, text = read_trace(recorded), recorded.read_text()
    assert shown(read_trace(write(text.removesuffix("\n]\n")))) == shown(whole)
    num_steps, _ = shown(read_trace(write(text[: int(len(text) * 0.8)])))
    assert 0 < num_steps <= len(whole.steps)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not begin with"),
        ('{"traceEvents": []}', "does not begin with"),
        ("[\n]\n", "holds no steps"),
        ('[\n{"ph": "M"},\nnonsense,\n{"ph": "M"}\n]\n', "line 3 is no event"),
        ("[\n" + json.dumps({"ph": "X", "ts": 1, "dur": 1, "pid": 1, "tid": 9, "args": {}}) + "\n]\n", "not a trace"),
    ],
)
def test_anything_else_is_refused_by_its_name(write: Write, text: str, message: str) -> None:
    with pytest.raises(BadFile, match=message) as refusal:
        read_trace(write(text))
    assert "written.json" in str(refusal.value)


def test_the_view_is_around_a_preemption_or_a_time(recorded: Path) -> None:
    trace = read_trace(recorded)
    stop = best_story(trace)
    view = choose_view(trace, "preemption", 50.0)
    assert view.begin_ms <= stop.begin_ms < view.end_ms == view.begin_ms + 50.0
    later = choose_view(trace, "0.1", 40.0)
    assert later.begin_ms == pytest.approx(88.0)
    for around in ("soon", "99", "-1"):
        with pytest.raises(BenchError, match="--around: got"):
            choose_view(trace, around, None)


def test_without_preemptions_the_user_is_told_to_name_a_time(recorded: Path) -> None:
    trace = read_trace(recorded)
    trace.stops.clear()
    with pytest.raises(BenchError, match="name a time with --around"):
        choose_view(trace, "preemption", None)
