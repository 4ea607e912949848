import math

import pytest
from qllm.client.bench.report.turns_tables import ratios_grid, turns_grid
from qllm.client.bench.results.mean import Mean, mean_of_ratios
from qllm.client.bench.results.turns import Figure, Turns

FIGURES = (Figure("wait_ms", "wait, ms", 1, is_compared=True), Figure("count", "count", 0), Figure("none", "never"))


def turns() -> Turns:
    made = Turns()
    for ours, theirs in ((10.0, 20.0), (30.0, 30.0), (10.0, 40.0)):
        made.add("ours", {"wait_ms": ours, "count": 1, "none": None})
        made.add("theirs", {"wait_ms": theirs, "count": 2})
    return made


def test_a_mean_tells_its_standard_error() -> None:
    mean = Mean.of([1.0, 2.0, 3.0])
    assert mean is not None
    assert (mean.value, mean.count) == (2.0, 3)
    assert mean.error == pytest.approx(1 / math.sqrt(3))
    assert Mean.of([5.0]) == Mean(5.0, 1)
    assert Mean.of([]) is None


def test_the_error_of_a_ratio_is_that_of_both_means() -> None:
    ratio = Mean(2.0, 10, 0.3).over(Mean(1.0, 20, 0.2))
    assert ratio is not None
    assert (ratio.value, ratio.count) == (2.0, 10)
    assert ratio.error == pytest.approx(2 * math.hypot(0.15, 0.2))
    assert Mean(2.0, 10, 0.3).over(Mean(0.0, 10)) is None
    assert Mean(2.0, 10, 0.3).over(None) is None


def test_ratios_are_taken_within_pairs() -> None:
    assert mean_of_ratios([(1.0, 2.0), (30.0, 20.0), (1.0, 0.0)]) == Mean(1.0, 2, pytest.approx(0.5))
    assert mean_of_ratios([(1.0, 0.0)]) is None


def test_ways_are_compared_round_by_round() -> None:
    ratio = turns().ratio("ours", "theirs", "wait_ms")
    assert ratio is not None
    assert ratio.value == pytest.approx((0.5 + 1 + 0.25) / 3)
    assert turns().ratio("ours", "theirs", "none") is None


def test_a_round_that_was_cut_short_is_compared_as_far_as_it_went() -> None:
    cut = turns()
    cut.add("ours", {"wait_ms": 99.0})
    assert cut.ratio("ours", "theirs", "wait_ms") == turns().ratio("ours", "theirs", "wait_ms")


def test_tables_show_means_and_ratios_with_their_errors() -> None:
    grid = turns_grid("Waits", turns(), FIGURES)
    assert grid.header == ("", "ours", "theirs")
    assert grid.rows == (("wait, ms", "16.7 ± 6.7", "30.0 ± 5.8"), ("count", "1 ± 0", "2 ± 0"))
    ratios = ratios_grid("Ratios", turns(), FIGURES, "theirs")
    assert ratios is not None
    assert ratios.rows == (("wait, ms", "0.583 ± 0.220x"),)


def test_one_way_alone_is_compared_with_nothing() -> None:
    alone = Turns()
    alone.add("ours", {"wait_ms": 1.0})
    assert ratios_grid("Ratios", alone, FIGURES, "ours") is None
    assert ratios_grid("Ratios", alone, FIGURES, "theirs") is None
    values = alone.to_json(FIGURES, "theirs")
    assert values["means"]["ours"]["wait_ms"] == {"value": 1.0, "count": 1, "error": None}
    assert values["ratios"] == {}
