import copy
from typing import Any

import pytest
from qllm.cost_table import parse_cost_table, shipped_tables

from scheduler_svc.core.policies import Limits
from scheduler_svc.core.state.batch import Shape
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.simulation.arrivals import ClosedLoop
from scheduler_svc.simulation.errors import JobRefused
from scheduler_svc.simulation.job import parse_job
from scheduler_svc.simulation.step_costs import StepCosts

A100 = "a100-mixtral-8x7b"


def job(**changes: object) -> dict[str, Any]:
    return {"cost_table": A100, "requests": [[0.5, "ls", 10, 3]], **changes}


def table(**changes: object) -> dict[str, Any]:
    content = copy.deepcopy(shipped_tables()[A100])
    assert isinstance(content, dict)
    return {**content, **changes}


def loop(**changes: object) -> dict[str, Any]:
    clients = {"num_clients": 8, "num_prompt_tokens": 1100, "num_output_tokens": 64, "until_s": 60}
    return job(closed_loop={**clients, **changes})


def test_what_is_left_out_has_the_cores_own_defaults() -> None:
    read = parse_job(job(settings={"ls_tpot_s": 1, "max_num_seqs": 8}))
    assert read.preempt_at is PreemptAt.EXPERT
    assert read.limits == Limits(ls_tpot_s=1.0, max_num_seqs=8, control_lead_s=0.0)


def test_what_is_left_out_of_a_closed_loop_has_its_own_defaults() -> None:
    expected = ClosedLoop(num_clients=8, num_prompt_tokens=1100, num_output_tokens=64, until_s=60.0)
    assert parse_job(loop()).closed_loop == expected
    assert parse_job(job()).closed_loop is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "job: got list, allowed is an object"),
        (job(polices="qllm"), "job: got polices, allowed are cost_table, policy"),
        (job(policy="lifo"), "job.policy: got 'lifo', allowed are qllm, paper"),
        (job(preempt_at="token"), "job.preempt_at: got 'token'"),
        (job(settings={"max_num_seqs": 1.5}), "job.settings.max_num_seqs: got 1.5, allowed is a whole number"),
        (job(settings={"max_num_seqs": 0}), "job.settings.max_num_seqs: got 0, allowed is 1 to 4096"),
        (job(settings={"ls_tpot_s": 61}), "job.settings.ls_tpot_s: got 61, allowed is 0 to 60$"),
        (job(settings={"window_s": 0}), "job.settings.window_s: got 0, allowed is 0.1 to 3600"),
        (job(settings={"stretch": 1}), "job.settings: got stretch, allowed are max_num_seqs"),
        (job(settings={"min_share": "much"}), "job.settings.min_share: got 'much'"),
        ({"requests": []}, "job.cost_table: is missing"),
        (job(cost_table="h100"), "cost_table: got 'h100', allowed is an object, or a100-mixtral-8x7b"),
        (job(requests={}), "job.requests: allowed is a list"),
        (job(requests=[[1, "ls", 5]]), r"job.requests\[0\]: got"),
        (job(requests=[[-1, "ls", 5, 5]]), r"job.requests\[0\].arrival_s: got -1"),
        (job(requests=[[0, "vip", 5, 5]]), r"job.requests\[0\].class: got 'vip', allowed are ls, be"),
        (job(requests=[[0, "ls", 0, 5]]), r"job.requests\[0\].num_prompt_tokens: got 0"),
        (job(requests=[[0, "ls", 32760, 50]]), r"job.requests\[0\].num_output_tokens: got 50, allowed .* from 1 to 8"),
        (loop(num_clients=4097), "job.closed_loop.num_clients: got 4097, allowed is a whole number from 0 to 4096"),
        (loop(from_s=61), "job.closed_loop.from_s: got 61, allowed is a number from 0 to 60"),
        (loop(**{"class": "vip"}), "job.closed_loop.class: got 'vip', allowed are ls, be"),
        (loop(pause_s=1), "job.closed_loop: got pause_s, allowed are num_clients"),
        (loop(num_prompt_tokens=30000), "got prompts of up to 36000 tokens and outputs of 64, allowed are 32768"),
        ({**loop(), "cost_table": "zero"}, "job.closed_loop: got a table whose work takes no time"),
        (job(cost_table=[]), "cost_table: got list, allowed is an object"),
        (job(cost_table=table(num_layers=0)), "cost_table.num_layers: got 0"),
        (job(cost_table=table(num_experts_per_token=9)), "cost_table.num_experts_per_token: got 9"),
        (job(cost_table=table(head_us={"fixed": -1, "per_row": 0})), "cost_table.head_us.fixed: got -1"),
        (job(cost_table=table(head_us={"fixed": 1, "row": 0})), "cost_table.head_us: got row"),
    ],
)
def test_what_is_not_allowed_is_named_with_what_is(content: object, message: str) -> None:
    with pytest.raises(JobRefused, match=message):
        parse_job(content)


def test_the_a100_table_takes_300_to_400_ms_for_a_decode_iteration_of_32() -> None:
    costs = StepCosts(parse_cost_table(shipped_tables()[A100]))
    times = costs.unit_times(Shape(num_tokens=32, num_pairs=32 * 512, num_rows=32))
    iteration_s = 32 * (times.attention_s + 8 * times.expert_s) + times.head_s
    assert 0.3 <= iteration_s <= 0.4
