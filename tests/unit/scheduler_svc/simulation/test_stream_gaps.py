"""A stream that has begun goes on in every iteration, however many others there are and however many want to begin."""

import pytest
from qllm.cost_table import parse_cost_table, shipped_tables

from scheduler_svc.core.policies import Limits
from scheduler_svc.core.state.batch import Shape
from scheduler_svc.simulation.job import parse_job
from scheduler_svc.simulation.simulation import Simulation
from scheduler_svc.simulation.step_costs import StepCosts

A100 = shipped_tables()["a100-mixtral-8x7b"]
COSTS = StepCosts(parse_cost_table(A100))
LIMITS = Limits()
NUM_PROMPT, NUM_OUTPUT = 60, 16


def iteration_s(costs: StepCosts, num_decodes: int, num_prompt_tokens: int) -> float:
    """What an iteration of so many decodes and so many tokens of prompts takes at most."""
    num_tokens, num_rows = num_decodes + num_prompt_tokens, num_decodes + -(-num_prompt_tokens // NUM_PROMPT)
    times = costs.unit_times(Shape(num_tokens, num_tokens * (NUM_PROMPT + NUM_OUTPUT), num_rows))
    units_s = times.attention_s + costs.num_experts * times.expert_s
    return costs.num_layers * units_s + times.head_s


def longest_gap_s(name: str, num_requests: int, policy: str, interval_s: float, num_others: int = 0) -> float:
    requests = [[interval_s * i, name, NUM_PROMPT, NUM_OUTPUT] for i in range(num_requests)]
    requests += [[0.0, "be", 500, 100]] * num_others
    simulation = Simulation(parse_job({"cost_table": "a100-mixtral-8x7b", "policy": policy, "requests": requests}))
    simulation.run()
    assert len(simulation.outcomes) == len(requests)
    return max(one.longest_gap_s for one in simulation.outcomes if one.num_prompt_tokens == NUM_PROMPT)


@pytest.mark.parametrize("interval_s", [0.0, 0.05])
@pytest.mark.parametrize("num_requests", [64, 128, 256, 400])
def test_a_latency_sensitive_stream_that_has_begun_never_waits_for_one_that_has_not(
    num_requests: int, interval_s: float
) -> None:
    bound_s = iteration_s(COSTS, min(num_requests, LIMITS.max_num_seqs), LIMITS.ls_chunk_tokens)
    assert longest_gap_s("ls", num_requests, "qllm", interval_s) <= bound_s


@pytest.mark.parametrize("policy", ["qllm", "fcfs"])
@pytest.mark.parametrize("num_requests", [64, 256, 400])
def test_nor_does_a_best_effort_stream(num_requests: int, policy: str) -> None:
    bound_s = iteration_s(COSTS, min(num_requests, LIMITS.max_num_seqs), LIMITS.be_max_chunk_tokens)
    assert longest_gap_s("be", num_requests, policy, 0.0) <= bound_s


def test_a_stream_whose_memory_was_taken_goes_on_as_soon_as_there_is_some_again() -> None:
    assert isinstance(A100, dict)
    table = {**A100, "num_blocks": 40}
    requests = [[0.0, "ls", 60, num_output] for num_output in (300, 300, 60, 300)]

    def gap_s(control_lead_s: float) -> float:
        job = {"cost_table": table, "settings": {"control_lead_s": control_lead_s}, "requests": requests}
        simulation = Simulation(parse_job(job))
        simulation.run()
        return max(one.longest_gap_s for one in simulation.outcomes)

    # With a lead an iteration has a sequel, which has one too: whoever waits would wait for the last of them.
    assert gap_s(LIMITS.control_lead_s) <= gap_s(0.0) + iteration_s(COSTS, 4, 0)


def test_best_effort_work_beside_many_streams_costs_them_no_more_than_its_share() -> None:
    alone_s, beside_s = (longest_gap_s("ls", 200, "qllm", 0.0, num_others) for num_others in (0, 16))
    step_s = iteration_s(COSTS, 16, LIMITS.be_max_chunk_tokens)
    assert beside_s <= alone_s + step_s
