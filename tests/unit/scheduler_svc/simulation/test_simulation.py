"""A simulation is fixed by its job, loses nothing, and costs decisions rather than time."""

import random
from collections.abc import Callable

import pytest

from scheduler_svc.core.policies import POLICIES
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.simulation.arrivals import Request
from scheduler_svc.simulation.errors import Stalled
from scheduler_svc.simulation.job import Job, parse_job
from scheduler_svc.simulation.report import report
from scheduler_svc.simulation.simulation import Outcome, Simulation

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
A100 = "a100-mixtral-8x7b"


def traffic(seed: int, rate_per_s: float = 2.0, seconds: float = 30.0, ls_share: float = 0.2) -> list[list[object]]:
    rng, at_s, rows = random.Random(seed), 0.0, []
    while (at_s := at_s + rng.expovariate(rate_per_s)) < seconds:
        name = "ls" if rng.random() < ls_share else "be"
        rows.append([at_s, name, rng.randint(5, 400), rng.randint(1, 40)])
    return rows


def run(policy: str, rows: list[list[object]], preempt_at: str = "expert", **limits: float) -> Simulation:
    job = {"cost_table": A100, "policy": policy, "preempt_at": preempt_at, "requests": rows, "settings": limits}
    simulation = Simulation(parse_job(job))
    simulation.run()
    return simulation


def mean(simulation: Simulation, request_class: RequestClass, figure: Callable[[Outcome], float]) -> float:
    values = [figure(one) for one in simulation.outcomes if one.request_class is request_class]
    return sum(values) / len(values)


def ttft(outcome: Outcome) -> float:
    return outcome.ttft_s


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_job_always_comes_to_the_same(policy: str) -> None:
    first, second = (report(run(policy, traffic(1)), cpu_s=0.0) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(3))
def test_every_token_is_accounted_for(policy: str, seed: int) -> None:
    rows = traffic(seed)
    simulation = run(policy, rows)
    assert len(simulation.outcomes) == len(rows)
    wanted = sorted((at_s, prompt, output) for at_s, _, prompt, output in rows)  # type: ignore[type-var]
    got = sorted((o.arrival_s, o.num_prompt_tokens, o.num_output_tokens) for o in simulation.outcomes)
    assert got == wanted
    # Each prompt token and each output token but the last goes through the model once: nothing
    # is redone, nothing is skipped.
    num_tokens = sum(prompt + output - 1 for _, _, prompt, output in rows)  # type: ignore[operator]
    assert simulation.worker.num_tokens == num_tokens
    pool = simulation.scheduler.memory.pool
    assert pool.num_free == pool.num_blocks


@pytest.mark.parametrize("policy", POLICIES)
def test_time_is_conserved(policy: str) -> None:
    simulation = run(policy, traffic(2))
    assert simulation.scheduler.counters.busy_ns * 1e-9 <= simulation.now_s + 1e-6
    for outcome in simulation.outcomes:
        assert 0.0 <= outcome.queue_s < outcome.ttft_s <= outcome.turnaround_s


def test_policies_stand_in_the_order_that_their_rules_imply() -> None:
    rows = traffic(3, rate_per_s=4.0)
    waits = {name: mean(run(name, rows), LS, ttft) for name in POLICIES}
    assert waits["qllm"] <= waits["priority-iteration"] * 1.1
    assert waits["priority-iteration"] < waits["paper"] < waits["fcfs"]
    assert waits["fcfs"] > 10 * waits["qllm"]


def test_stopping_at_experts_waits_less_than_at_layers_and_those_less_than_at_iterations() -> None:
    # One best-effort iteration after another, and single arrivals that never meet each other.
    rows: list[list[object]] = [[0.0, "be", 4000, 40] for _ in range(8)]
    rows += [[5.0 + 3.137 * i, "ls", 8, 1] for i in range(30)]
    queues = {
        place: mean(run("qllm", rows, place), LS, lambda one: one.queue_s) for place in ("expert", "layer", "iteration")
    }
    assert queues["expert"] <= queues["layer"] < queues["iteration"]
    assert queues["expert"] < 0.02
    assert queues["iteration"] > 0.1


def test_an_hour_takes_decisions_in_proportion_to_its_work_and_not_to_its_length() -> None:
    rows: list[list[object]] = [[40.0 * i, "ls" if i % 5 == 0 else "be", 100, 20] for i in range(90)]
    simulation = run("qllm", rows, command_window_s=5.0)
    assert simulation.now_s > 3500
    assert simulation.num_events < 120 * len(rows)
    assert len(simulation.outcomes) == len(rows)


def test_work_that_will_never_run_is_an_error_and_not_an_endless_loop() -> None:
    job = parse_job({"cost_table": A100, "requests": []})
    simulation = Simulation(Job(job.cost_table, (Request(0.0, BE, 16 * 24_001, 2),)))  # more than the cache ever holds
    with pytest.raises(Stalled, match="1 requests are left"):
        simulation.run()
