"""Costs are found again in timings that scatter, however far some of them are off, and none of them is negative."""

from random import Random

import pytest

from gpu_worker.contract.results import WorkTiming
from gpu_worker.execution.cost_fit import StepSample

ATTENTION, EXPERT, HEAD = (900.0, 17.0, 0.004), (250.0, 7.5), (500.0, 60.0)  # microseconds


def step(rng: Random, noise: float = 0.0, slow: float = 0.0) -> WorkTiming:
    """A step through some layers; a share `slow` of them met another process, and took 3 times as long."""
    num_layers = rng.choice((1, 2, 8, 8, 8))
    num_tokens = rng.choice((1, 1, 2, 4, 8, 8, 9, 64, 264))
    num_pairs = num_tokens * rng.randint(num_tokens, 1500)
    num_runs, num_heads = num_layers * min(8, 2 * num_tokens), int(num_layers == 8)
    num_rows = num_heads * min(num_tokens, 8)

    def taken(*parts: float) -> int:
        factor = rng.lognormvariate(0.0, noise) * (3.0 if rng.random() < slow else 1.0)
        return round(1e3 * factor * sum(parts))

    tokens, pairs, assigned = num_layers * num_tokens, num_layers * num_pairs, num_layers * 2 * num_tokens
    return WorkTiming(
        num_attention_stages=num_layers,
        attention_tokens=tokens,
        attention_pairs=pairs,
        attention_ns=taken(ATTENTION[0] * num_layers, ATTENTION[1] * tokens, ATTENTION[2] * pairs),
        num_expert_runs=num_runs,
        expert_tokens=assigned,
        expert_ns=taken(EXPERT[0] * num_runs, EXPERT[1] * assigned),
        num_heads=num_heads,
        head_rows=num_rows,
        head_ns=taken(HEAD[0] * num_heads, HEAD[1] * num_rows),
    )


def sample_of(num_steps: int, **how: float) -> StepSample:
    rng, sample = Random(7), StepSample()
    for _ in range(num_steps):
        sample.note(step(rng, **how))
    return sample


def test_costs_without_noise_are_found_exactly() -> None:
    found = sample_of(200).fit()
    assert found.attention_us == pytest.approx(ATTENTION, rel=1e-3)
    assert found.expert_us == pytest.approx(EXPERT, rel=1e-3)
    assert found.head_us == pytest.approx(HEAD, rel=1e-3)
    assert found.median_error < 1e-3


def test_costs_are_found_though_times_scatter_and_one_step_in_ten_met_another_process() -> None:
    found = sample_of(3000, noise=0.15, slow=0.1).fit()
    assert found.attention_us == pytest.approx(ATTENTION, rel=0.15)
    assert found.expert_us == pytest.approx(EXPERT, rel=0.05)
    assert found.head_us == pytest.approx(HEAD, rel=0.1)
    assert 0.02 < found.median_error < 0.15


def test_a_cost_that_noise_would_make_negative_is_zero() -> None:
    rng, sample = Random(1), StepSample()
    for num_tokens in (1, 2, 4, 8) * 30:  # each token more makes it faster
        sample.note(
            WorkTiming(
                num_expert_runs=8,
                expert_tokens=num_tokens,
                expert_ns=round((900_000 - 50_000 * num_tokens) * rng.uniform(0.9, 1.1)),
            )
        )
    found = sample.fit()
    assert found.expert_us[1] == 0
    assert 500 < 8 * found.expert_us[0] < 900


def test_heads_that_were_left_between_their_rows_cost_what_whole_ones_cost() -> None:
    rng, sample = Random(5), StepSample()
    for _ in range(100):
        first, rest = rng.randint(1, 400), rng.randint(1, 400)
        sample.note(WorkTiming(num_heads=1, head_rows=first, head_ns=50_000 + 3_000 * first))
        sample.note(WorkTiming(head_rows=rest, head_ns=3_000 * rest))
    assert sample.fit().head_us == pytest.approx((50, 3), rel=1e-3)


def test_work_that_never_ran_and_work_of_one_size_come_to_a_table_too() -> None:
    assert StepSample().fit().attention_us == (0, 0, 0)
    sample = StepSample()
    one_size = WorkTiming(num_attention_stages=8, attention_tokens=8, attention_pairs=8, attention_ns=80_000)
    for _ in range(10):
        sample.note(one_size)
    found = sample.fit()
    assert sum(found.attention_us) == pytest.approx(10, rel=1e-3)  # of one token and one pair a stage
    assert found.expert_us == (0, 0)
    assert found.head_us == (0, 0)


def test_time_without_a_count_is_no_work() -> None:
    sample = sample_of(100)
    for _ in range(30):
        sample.note(WorkTiming(attention_ns=5_000_000))
    assert sample.fit().attention_us == pytest.approx(ATTENTION, rel=1e-3)


def test_what_is_kept_of_the_steps_is_bounded_and_stands_for_all_of_them() -> None:
    rng, sample = Random(3), StepSample(most_steps=64)
    for number in range(2000):
        took_ns = 1_000_000 if number < 1000 else 2_000_000  # the machine became slower
        sample.note(WorkTiming(num_heads=1, head_rows=rng.randint(1, 8), head_ns=took_ns))
    assert sample.num_steps == 2000
    assert len(sample._rows) == 64
    assert 20 <= sum(2_000_000 in row for row in sample._rows) <= 44


def test_steps_that_ran_nothing_are_not_counted() -> None:
    sample = StepSample()
    sample.note(WorkTiming())
    assert sample.num_steps == 0
