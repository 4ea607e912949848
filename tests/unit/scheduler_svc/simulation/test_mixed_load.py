"""Closed-loop clients keep the core busy for exactly as long as they are asked to, beside LS requests that all end."""

import pytest

from scheduler_svc.core.policies import POLICIES
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.simulation.job import parse_job
from scheduler_svc.simulation.mixed_load import MixedLoad, simulate_mixed_load
from scheduler_svc.simulation.report import report
from scheduler_svc.simulation.simulation import Simulation

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
ZEN5 = "zen5-mini-mixtral"
LOAD = MixedLoad(seconds=20.0)


def closed_loop(num_clients: int, until_s: float, **changes: object) -> Simulation:
    loop = {"num_clients": num_clients, "num_prompt_tokens": 200, "num_output_tokens": 20, "until_s": until_s}
    simulation = Simulation(parse_job({"cost_table": ZEN5, "requests": [], "closed_loop": {**loop, **changes}}))
    simulation.run()
    return simulation


def test_each_client_has_one_request_at_a_time() -> None:
    simulation = closed_loop(1, 30.0)
    ends_s = [one.arrival_s + one.turnaround_s for one in simulation.outcomes]
    assert [one.arrival_s for one in simulation.outcomes[1:]] == pytest.approx(ends_s[:-1])
    assert len(ends_s) > 10


def test_more_clients_ask_in_the_class_that_is_said_and_get_more_done() -> None:
    one, eight = closed_loop(1, 30.0, **{"class": "ls"}), closed_loop(8, 30.0, **{"class": "ls"})
    assert eight.window.num_tokens[LS] > 2 * one.window.num_tokens[LS]
    assert eight.window.num_tokens[BE] == 0


def test_the_run_is_cut_at_the_end_of_the_window_and_throughput_is_of_the_window() -> None:
    simulation = closed_loop(4, 30.0, from_s=10.0)
    assert 30.0 <= simulation.now_s < 31.0
    window = report(simulation, cpu_s=0.0)["window"]
    assert window == {"seconds": 20.0, "num_output_tokens": {"ls": 0, "be": simulation.window.num_tokens[BE]}}
    in_whole = closed_loop(4, 30.0).window.num_tokens[BE]
    assert 0.6 * in_whole < simulation.window.num_tokens[BE] < 0.7 * in_whole


@pytest.mark.parametrize("policy", POLICIES)
def test_every_latency_sensitive_request_is_served_to_its_end_while_the_clients_go_on(policy: str) -> None:
    result = simulate_mixed_load(ZEN5, LOAD, policy=policy)
    arrived = [at_s for at_s, *_ in LOAD.requests() if isinstance(at_s, float) and at_s >= LOAD.warm_up_s]
    assert sorted(one.arrival_s for one in result.ls) == arrived
    assert all(one.num_output_tokens == LOAD.ls_output_tokens for one in result.ls)
    assert result.be_tokens_per_s > 0
    assert len(result.ls_ttft_s) == len(result.ls_tpot_s) == len(arrived)


def test_the_same_load_always_comes_to_the_same() -> None:
    first, second = (simulate_mixed_load(ZEN5, LOAD, policy="qllm") for _ in range(2))
    assert first.ls == second.ls
    assert first.be_tokens_per_s == second.be_tokens_per_s


def test_time_per_token_is_that_from_the_first_token_to_the_last_by_the_gaps_between() -> None:
    result = simulate_mixed_load(ZEN5, LOAD)
    for one in result.ls:
        assert one.tpot_s == pytest.approx((one.turnaround_s - one.ttft_s) / (LOAD.ls_output_tokens - 1))
    single = simulate_mixed_load(ZEN5, MixedLoad(ls_output_tokens=1, seconds=20.0))
    assert {one.tpot_s for one in single.ls} == {None}
    assert single.ls_tpot_s == []


def test_without_clients_latency_sensitive_requests_have_the_server_to_themselves() -> None:
    idle = simulate_mixed_load(ZEN5, MixedLoad(num_be_clients=0, ls_rate_per_s=0.05, seconds=100.0))
    beside = simulate_mixed_load(ZEN5, MixedLoad(ls_rate_per_s=0.05, seconds=100.0), policy="fcfs")
    assert idle.be_tokens_per_s == 0
    assert idle.mean_ls_ttft_s < 0.5 * beside.mean_ls_ttft_s
    assert idle.mean_ls_tpot_s < 0.5 * beside.mean_ls_tpot_s
