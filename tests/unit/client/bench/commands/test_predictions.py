"""Predictions are compared with what was measured, in periods since the first step."""

import pytest
from qllm.client.bench.commands.predictions import periods, predictions_grid
from qllm.client.bench.errors import BenchError
from qllm.client.bench.results.recorded_trace import BE, RecordedTrace, Step


def step(begin_s: float, predicted_ms: float | None, measured_ms: float) -> Step:
    begin_ms = 1e3 * begin_s
    return Step(BE, (1,), begin_ms, begin_ms + measured_ms, 0.0, 1.0, 8, 1, predicted_ms, measured_ms)


def test_errors_are_told_by_period_since_the_first_step() -> None:
    steps = [step(50.0, 10.0, 20.0), step(50.5, 10.0, 10.0), step(51.5, 4.0, 8.0)]
    first, second = periods(RecordedTrace(steps=steps))
    assert (first.begin_s, first.end_s, first.errors, first.total) == (0.0, 1.0, (1.0, 2.0), 1.5)
    assert (second.begin_s, second.errors) == (1.0, (2.0,))
    assert predictions_grid([first, second]).rows[0] == ("0 to 1 s", "2", "1.00x", "1.00x", "2.00x", "1.50x")


def test_steps_that_were_cut_short_or_not_predicted_yet_are_left_out() -> None:
    (only,) = periods(RecordedTrace(steps=[step(0.0, None, 5.0), step(0.1, 0.0, 5.0), step(0.2, 5.0, 5.0)]))
    assert only.errors == (1.0,)


def test_a_trace_without_any_prediction_is_refused() -> None:
    with pytest.raises(BenchError, match="no step that was predicted"):
        periods(RecordedTrace(steps=[step(0.0, None, 5.0)]))
