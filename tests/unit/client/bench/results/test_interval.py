import pytest
from hypothesis import given
from hypothesis import strategies as st
from qllm.client.bench.results.interval import wilson


@pytest.mark.parametrize(
    ("num_met", "num_all", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0), (495, 500, 0.9768, 0.9957)],
)
def test_the_interval_is_the_one_of_the_tables(num_met: int, num_all: int, low: float, high: float) -> None:
    assert wilson(num_met, num_all) == pytest.approx((low, high), abs=5e-5)


def test_of_nothing_nothing_is_known() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.integers(1, 10_000), st.data())
def test_the_share_lies_within_it_and_more_of_the_same_narrows_it(num_all: int, data: st.DataObject) -> None:
    num_met = data.draw(st.integers(0, num_all))
    low, high = wilson(num_met, num_all)
    assert 0 <= low <= num_met / num_all <= high <= 1
    narrow_low, narrow_high = wilson(4 * num_met, 4 * num_all)
    assert narrow_high - narrow_low < high - low
