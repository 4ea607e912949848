"""One set of defaults on unlike machines, small CPUs and GPUs: what is kept of the promise and of the throughput.

In virtual time by their cost tables. Floors of throughput are what is reached, a little below;
docs/measurements/simulation.md says what limits it where.
"""

from dataclasses import dataclass, replace
from functools import cache

import pytest

from scheduler_svc.core.policies import Limits
from scheduler_svc.core.state.batch import Shape
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.simulation.mixed_load import MixedLoad, MixedLoadResult, simulate_mixed_load

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
TPOT_S = Limits().ls_tpot_s
CHAT = MixedLoad(seconds=60.0)
ON_GPU = MixedLoad(
    ls_rate_per_s=2.0,
    ls_prompt_tokens=400,
    ls_output_tokens=150,
    num_be_clients=32,
    be_output_tokens=200,
    seconds=30.0,
)


@dataclass(frozen=True)
class Case:
    """A machine under a load, the throughput that is kept of `fcfs`, and by how much first tokens may come later."""

    table: str
    load: MixedLoad
    least_throughput: float
    most_ttft: float


CASES = [
    Case("zen5-mini-mixtral", replace(CHAT, ls_rate_per_s=0.2), 0.96, 1.15),
    Case("zen5-mini-mixtral", CHAT, 0.90, 1.15),
    Case("zen5-mini-mixtral", replace(CHAT, ls_rate_per_s=1.5), 0.84, 1.2),
    Case("zen4-mini-mixtral", replace(CHAT, ls_rate_per_s=0.2), 0.93, 1.15),
    Case("zen4-mini-mixtral", CHAT, 0.81, 1.15),
    Case("zen3-mini-mixtral", replace(CHAT, ls_rate_per_s=0.2), 0.90, 1.15),
    Case("zen3-mini-mixtral", CHAT, 0.78, 1.2),
    Case("h200-mixtral-8x7b", replace(ON_GPU, ls_rate_per_s=0.5), 0.97, 1.15),
    Case("h200-mixtral-8x7b", ON_GPU, 0.93, 1.2),
]


@cache
def run(table: str, load: MixedLoad, policy: str = "qllm") -> MixedLoadResult:
    return simulate_mixed_load(table, load, policy=policy)


def tokens_per_s(result: MixedLoadResult) -> float:
    return result.ls_tokens_per_s + result.be_tokens_per_s


def idle_ttft_s(table: str, load: MixedLoad) -> float:
    """What a first token takes where nothing else is there: an iteration of the prompt."""
    outlook = run(table, load).simulation.scheduler.work.outlook
    return outlook.iteration_s(Shape(load.ls_prompt_tokens, load.ls_prompt_tokens**2, 1))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.table}-{case.load.ls_rate_per_s:g}")
def test_nine_of_ten_answers_are_paced_first_tokens_are_near_idle_and_throughput_keeps_its_floor(case: Case) -> None:
    result = run(case.table, case.load)
    counts = result.simulation.scheduler.counters.classes[LS]
    assert counts.num_paced_in_time >= 0.9 * counts.num_paced
    slowest_s = result.ls_tpot_s[int(0.99 * len(result.ls_tpot_s))]
    assert slowest_s <= 1.1 * TPOT_S
    assert result.mean_ls_ttft_s <= case.most_ttft * idle_ttft_s(case.table, case.load)
    assert tokens_per_s(result) >= case.least_throughput * tokens_per_s(run(case.table, case.load, "fcfs"))


def test_where_the_target_is_out_of_reach_neither_class_starves() -> None:
    """An iteration takes at most twice as long; with answers that last longer, more of them wait for each one."""
    load = replace(
        ON_GPU, ls_rate_per_s=0.2, ls_output_tokens=60, num_be_clients=16, be_output_tokens=100, seconds=60.0
    )
    beside, alone = (run("a100-mixtral-8x7b", replace(load, num_be_clients=clients)) for clients in (16, 0))
    assert alone.mean_ls_tpot_s > TPOT_S
    assert beside.mean_ls_tpot_s <= 3.0 * alone.mean_ls_tpot_s
    assert beside.be_tokens_per_s > 0.4 * run("a100-mixtral-8x7b", load, "fcfs").be_tokens_per_s


@pytest.mark.parametrize("table", ["zen3-mini-mixtral", "zen5-mini-mixtral"])
def test_a_load_has_one_outcome_whatever_came_before(table: str) -> None:
    """An overload before the window leaves nothing behind: there are no two states that each keep themselves up."""
    quiet = replace(CHAT, seconds=60.0, warm_up_s=60.0)
    calm = simulate_mixed_load(table, quiet)
    overloaded = simulate_mixed_load(table, quiet, extra_requests=[[0.05 * i, "ls", 80, 60] for i in range(200)])
    assert tokens_per_s(overloaded) == pytest.approx(tokens_per_s(calm), rel=0.05)
    assert overloaded.mean_ls_tpot_s == pytest.approx(calm.mean_ls_tpot_s, rel=0.05)
