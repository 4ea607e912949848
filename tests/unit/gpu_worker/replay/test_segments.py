"""A decode is cut into graphs that are as long as may be, whatever its layers take."""

from hypothesis import given
from hypothesis import strategies as st

from gpu_worker.replay.segments import batch_sizes, plan_segments


@given(st.integers(1, 100), st.floats(0, 50), st.floats(0.01, 50))
def test_segments_hold_each_layer_once_and_take_no_longer_than_they_may(
    num_layers: int, layer_ms: float, run_ahead_ms: float
) -> None:
    segments = plan_segments(num_layers, layer_ms, run_ahead_ms)
    assert [layer for segment in segments for layer in segment] == list(range(num_layers))
    lengths = [len(segment) for segment in segments]
    assert min(lengths) >= max(lengths) - 1
    assert max(lengths) == 1 or max(lengths) * layer_ms <= run_ahead_ms * (1 + 1e-6)


@given(st.integers(1, 100), st.floats(0.01, 50), st.floats(0.01, 50))
def test_there_are_no_more_of_them_than_that_takes(num_layers: int, layer_ms: float, run_ahead_ms: float) -> None:
    count = len(plan_segments(num_layers, layer_ms, run_ahead_ms))
    if count > 1:
        longest_of_fewer = -(-num_layers // (count - 1))
        assert longest_of_fewer * layer_ms > run_ahead_ms * (1 - 1e-6)


def test_layers_that_take_half_of_what_may_be_go_two_by_two() -> None:
    assert plan_segments(5, layer_ms=0.5, run_ahead_ms=1.0) == (range(2), range(2, 4), range(4, 5))


def test_sizes_rise_and_end_with_the_largest_that_fits() -> None:
    assert batch_sizes(64) == (1, 2, 4, 8, 16, 32, 48, 64)
    assert batch_sizes(5) == (1, 2, 4)
