"""The line through measured over predicted times shows what came before, never what comes after."""

from qllm.client.bench.report.predictions_figure import rolling


def test_a_rolling_median_looks_back_only() -> None:
    assert rolling([1.0, 9.0, 2.0, 2.0], 3) == [1.0, 5.0, 2.0, 2.0]
