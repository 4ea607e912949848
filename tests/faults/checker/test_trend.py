"""A leak is told from noise and from a warm-up."""

import math
import random

import pytest

from tests.faults.checker.trend import fit, trend, window_means


def noisy(per_s: float, noise: float, num: int = 600) -> list[tuple[float, float]]:
    rng = random.Random(1)
    return [(float(t), 100 + per_s * t + rng.gauss(0, noise)) for t in range(num)]


def test_a_straight_line_is_found_without_error() -> None:
    line = fit([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)])
    assert (line.mean, line.per_s, line.growth) == (3.0, 2.0, 4.0)
    assert line.error_per_s == pytest.approx(0.0)


def test_the_standard_error_is_that_of_the_text_books() -> None:
    line = fit([(0.0, 0.0), (1.0, 1.0), (2.0, 0.0), (3.0, 1.0)])
    assert line.per_s == pytest.approx(0.2)
    assert line.error_per_s == pytest.approx(math.sqrt(0.8 / 2 / 5))


def test_a_leak_that_is_allowed_or_lost_in_noise_is_flat_and_a_larger_one_is_not() -> None:
    assert trend(noisy(0.0, 5.0)).is_flat(allowed=1.0)
    assert trend(noisy(0.1, 5.0)).is_flat(allowed=100.0)
    assert not trend(noisy(0.1, 5.0)).is_flat(allowed=10.0)
    assert trend(noisy(-0.1, 5.0)).is_flat(allowed=10.0)


def test_what_grows_while_a_service_warms_up_does_not_count() -> None:
    samples = [(float(t), min(t, 100) * 10.0) for t in range(600)]
    assert trend(samples).is_flat(allowed=0.0)


def test_windows_have_equal_lengths_and_lose_no_sample() -> None:
    assert window_means([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0), (4.0, 9.0)], 2) == [(0.5, 2.0), (3.0, 7.0)]


def test_one_moment_tells_nothing() -> None:
    with pytest.raises(ValueError, match="got 2 points at one time"):
        fit([(1.0, 2.0), (1.0, 3.0)])
    assert fit([(0.0, 1.0), (1.0, 2.0)]).is_flat(allowed=0.0)
