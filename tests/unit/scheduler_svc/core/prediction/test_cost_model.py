import random
from dataclasses import replace

import pytest

from scheduler_svc.core.prediction.cost_model import CostModel, OnlineFit
from scheduler_svc.core.state.batch import Shape
from scheduler_svc.core.state.results import WorkTiming
from tests.support.core.simulation import Costs, SimWorker, small_model


def fitted(noise: float = 0.0, num_samples: int = 200, hiccups: float = 0.0) -> OnlineFit:
    fit, rng = OnlineFit((1.0, 64.0)), random.Random(3)
    for _ in range(num_samples):
        runs, tokens = rng.randint(1, 8), rng.randint(1, 500)
        time_ms = (0.2 * runs + 0.01 * tokens) * rng.uniform(1 - noise, 1 + noise)
        fit.observe((runs, tokens), time_ms * (30 if rng.random() < hiccups else 1))
    return fit


def test_a_fit_finds_what_generated_the_times() -> None:
    assert fitted(num_samples=5).predict_ms((1, 100)) == pytest.approx(1.2, rel=0.01)


def test_a_fit_bears_noise() -> None:
    assert fitted(noise=0.3).predict_ms((4, 200)) == pytest.approx(2.8, rel=0.1)


def test_a_fit_bears_hiccups() -> None:
    assert fitted(noise=0.1, num_samples=2000, hiccups=0.01).predict_ms((4, 200)) == pytest.approx(2.8, rel=0.3)


def test_a_fit_follows_a_machine_that_became_slower() -> None:
    fit, rng = fitted(), random.Random(4)
    for _ in range(1500):
        runs, tokens = rng.randint(1, 8), rng.randint(1, 500)
        fit.observe((runs, tokens), 2 * (0.2 * runs + 0.01 * tokens))
    assert fit.predict_ms((4, 200)) == pytest.approx(5.6, rel=0.05)


def test_work_of_one_size_for_a_long_time_does_not_unsettle_a_fit() -> None:
    fit, rng = fitted(noise=0.05), random.Random(5)
    for _ in range(20_000):
        fit.observe((8, 100), 2.6 * rng.uniform(0.95, 1.05))
    assert fit.predict_ms((8, 100)) == pytest.approx(2.6, rel=0.05)
    assert fit.predict_ms((1, 10)) < 2.6


def test_no_prediction_is_negative() -> None:
    fit = OnlineFit((1.0, 64.0))
    for tokens in (10, 500, 10, 500):
        fit.observe((1, tokens), 5.0 - tokens / 200)
    assert fit.predict_ms((1, 10_000)) >= 0


def test_a_model_is_ready_once_it_has_seen_every_kind_of_work() -> None:
    worker = SimWorker(small_model(), Costs())
    model = CostModel(worker.model)
    assert not model.is_ready
    model.observe(worker.timing((1, 8, 64, 8), 1, 0, 0))
    assert not model.is_ready
    model.observe(worker.timing((1, 8, 64, 8), 0, 4, 1))
    assert model.is_ready


def test_a_model_without_experts_is_ready_without_them() -> None:
    worker = SimWorker(small_model(experts_by_layer=(0, 0)), Costs())
    model = CostModel(worker.model)
    model.observe(worker.timing((1, 8, 64, 8), 1, 0, 1))
    assert model.is_ready
    assert model.unit_costs(Shape(8, 64, 8)).expert_s == 0.0


def test_whole_steps_teach_the_cost_of_their_units() -> None:
    worker = SimWorker(small_model(), Costs())
    model = CostModel(worker.model)
    for timing in worker.calibration():
        model.observe(timing)
    costs = model.unit_costs(Shape(num_tokens=100, num_pairs=10_000, num_rows=4))
    assert costs.attention_s * 1e3 == pytest.approx(0.2 + 1.0 + 0.02, rel=0.02)
    assert costs.expert_s * 1e3 == pytest.approx(0.3 + 3.0, rel=0.02)
    assert costs.head_s * 1e3 == pytest.approx(0.5 + 0.4, rel=0.02)
    iteration_s = model.iteration_s(Shape(100, 10_000, 4), worker.model.experts_by_layer)
    assert iteration_s == pytest.approx(4 * costs.attention_s + 32 * costs.expert_s + costs.head_s)


def test_few_tokens_are_expected_to_reach_few_experts() -> None:
    worker = SimWorker(small_model(experts_by_layer=(64,), num_experts_per_token=2), Costs())
    model = CostModel(worker.model)
    for timing in worker.calibration():
        model.observe(timing)
    assert model.unit_costs(Shape(1, 1, 1)).expert_s < model.unit_costs(Shape(64, 64, 1)).expert_s / 10


def observe_steps(model: CostModel, worker: SimWorker, num_steps: int, slowdown: float, rng: random.Random) -> None:
    for _ in range(num_steps):
        tokens = rng.randint(1, 300)
        timing = worker.timing((1, tokens, tokens * 900, 1), 1, worker.num_experts, 1)
        times = {name: round(getattr(timing, name) * slowdown) for name in ("attention_ns", "expert_ns", "head_ns")}
        model.observe(replace(timing, **times))


def test_a_slowdown_of_the_whole_machine_is_followed_within_twenty_steps_and_forgotten_as_soon() -> None:
    worker, rng, shape = SimWorker(small_model(), Costs()), random.Random(6), Shape(100, 90_000, 1)
    model = CostModel(worker.model)
    observe_steps(model, worker, 200, 1.0, rng)
    usual_s = model.iteration_s(shape, worker.model.experts_by_layer)
    observe_steps(model, worker, 20, 2.5, rng)
    assert model.iteration_s(shape, worker.model.experts_by_layer) == pytest.approx(2.5 * usual_s, rel=0.15)
    observe_steps(model, worker, 30, 1.0, rng)
    assert model.iteration_s(shape, worker.model.experts_by_layer) == pytest.approx(usual_s, rel=0.15)


def test_heads_that_are_left_between_their_rows_teach_what_whole_ones_teach() -> None:
    worker, long, short = SimWorker(small_model(), Costs()), Shape(512, 512 * 512, 512), Shape(8, 800, 8)
    whole, cut = CostModel(worker.model), CostModel(worker.model)
    for model in (whole, cut):
        for timing in worker.calibration() * 10:
            model.observe(timing)
    scored = worker.timing((1, 512, 512 * 512, 512), 4, 32, 1)
    rest_ns = scored.head_ns // 5
    for _ in range(50):
        whole.observe(scored)
        cut.observe(replace(scored, head_rows=410, head_ns=scored.head_ns - rest_ns))
        cut.observe(WorkTiming(head_rows=102, head_ns=rest_ns))
        for model in (whole, cut):
            model.observe(worker.timing((1, 8, 800, 8), 4, 32, 1))
    for shape in (long, short):
        assert cut.unit_costs(shape).head_s == pytest.approx(whole.unit_costs(shape).head_s, rel=0.02)
        iterations_s = [model.iteration_s(shape, worker.model.experts_by_layer) for model in (cut, whole)]
        assert iterations_s[0] == pytest.approx(iterations_s[1], rel=0.02)


def test_time_that_is_told_without_a_count_goes_with_the_next_counts() -> None:
    worker, rng, shape = SimWorker(small_model(), Costs()), random.Random(9), Shape(100, 90_000, 1)
    model = CostModel(worker.model)
    for _ in range(200):
        timing = worker.timing((1, tokens := rng.randint(1, 300), tokens * 900, 1), 1, worker.num_experts, 1)
        early_ns = timing.expert_ns // 2
        model.observe(WorkTiming(expert_ns=early_ns))
        model.observe(replace(timing, expert_ns=timing.expert_ns - early_ns))
    assert model.unit_costs(shape).expert_s * 1e3 == pytest.approx(0.3 + 3.0, rel=0.02)


def test_one_hiccup_moves_no_prediction_by_more_than_a_quarter() -> None:
    worker, rng, shape = SimWorker(small_model(), Costs()), random.Random(7), Shape(100, 90_000, 1)
    model = CostModel(worker.model)
    observe_steps(model, worker, 200, 1.0, rng)
    usual_s = model.iteration_s(shape, worker.model.experts_by_layer)
    observe_steps(model, worker, 1, 50.0, rng)
    assert model.iteration_s(shape, worker.model.experts_by_layer) == pytest.approx(usual_s, rel=0.25)
