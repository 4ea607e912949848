"""Programs ask again with all that was said before, once a tool has run; all of it fixed by the seed."""

import math
import random
from collections import defaultdict
from statistics import fmean, median
from typing import Any

import pytest

from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.simulation.agents import AgentLoad, Agents, Tool, TurnSpread
from scheduler_svc.simulation.arrivals import Arrival
from scheduler_svc.simulation.errors import JobRefused
from scheduler_svc.simulation.job import parse_job
from scheduler_svc.simulation.report import report
from scheduler_svc.simulation.simulation import Simulation

LOAD = AgentLoad(
    num_programs=6, rate_per_s=1.0, num_prompt_tokens=100, num_tool_tokens=30, num_output_tokens=5, num_turns=3
)
ANSWER_S = 0.5
NO_CHANCE = (Tool("search", 2.0, 0.0),)


def job(agents: dict[str, object] | None = None, **changes: object) -> dict[str, Any]:
    load = {"num_programs": 4, "rate_per_s": 1.0, "num_turns": 3, "num_prompt_tokens": 200, **(agents or {})}
    return {"cost_table": "a100-mixtral-8x7b", "requests": [], "agents": load, **changes}


def answered(load: AgentLoad, longest: int = 4096) -> dict[int, list[Arrival]]:
    """Lets each turn be answered half a second after it came; returns the turns of each program."""
    agents, turns = Agents(load, longest), defaultdict(list)
    ends: list[tuple[float, int]] = []
    while not agents.is_done:
        now_s = min(agents.next_s, *(at_s for at_s, _ in ends)) if ends else agents.next_s
        for arrival in agents.take_due(now_s):
            assert arrival.turn is not None
            turns[arrival.turn.program].append(arrival)
            ends.append((now_s + ANSWER_S, arrival.turn.program))
        for end in [each for each in ends if each[0] <= now_s]:
            ends.remove(end)
            agents.turn_ended(end[1], 0.1, now_s)
    return turns


def test_each_prompt_holds_what_was_said_before_and_what_the_tool_said() -> None:
    for turns in answered(LOAD).values():
        assert [turn.request.num_prompt_tokens for turn in turns] == [100, 135, 170]


def test_the_turns_of_a_program_share_its_session_and_only_the_last_one_expects_no_tool() -> None:
    turns = answered(LOAD)[2]
    sessions = [arrival.turn.session for arrival in turns if arrival.turn]
    assert {session.session_id for session in sessions} == {"agent-2"}
    assert [session.last_turn for session in sessions] == [False, False, True]
    assert [bool(session.expects_tool_call) for session in sessions] == [True, True, False]


def test_the_next_turn_comes_when_the_tool_has_run() -> None:
    load = AgentLoad(num_programs=1, rate_per_s=1.0, num_turns=3, tools=NO_CHANCE)
    first, second, third = (arrival.request.arrival_s for arrival in answered(load)[0])
    assert second - first == pytest.approx(ANSWER_S + 2.0)
    assert third - second == pytest.approx(ANSWER_S + 2.0)


def test_tools_take_log_normal_times_of_the_stated_mean() -> None:
    tool, chance = Tool("search", 4.0, 1.0), random.Random(1)
    drawn_s = [tool.draw_s(chance) for _ in range(20_000)]
    assert fmean(drawn_s) == pytest.approx(4.0, rel=0.05)
    assert median(drawn_s) == pytest.approx(4.0 * math.exp(-0.5), rel=0.05)


def test_geometric_numbers_of_turns_have_the_stated_mean_and_end_where_no_more_fits() -> None:
    load = AgentLoad(num_programs=3000, rate_per_s=100.0, num_turns=4, turn_spread=TurnSpread.GEOMETRIC)
    numbers = [len(turns) for turns in answered(load, longest=1 << 20).values()]
    assert fmean(numbers) == pytest.approx(4.0, rel=0.1)
    cut = [len(turns) for turns in answered(load, longest=load.num_tokens_of(5)).values()]
    assert max(cut) == 5


def test_what_programs_draw_does_not_depend_on_when_they_are_answered() -> None:
    fast, slow = (Simulation(parse_job(job(cost_table=table))) for table in ("h200-mixtral-8x7b", "a100-mixtral-8x7b"))
    for simulation in (fast, slow):
        simulation.run()
    prompts = [sorted(one.num_prompt_tokens for one in each.outcomes) for each in (fast, slow)]
    assert prompts[0] == prompts[1]
    assert fast.now_s < slow.now_s


def test_a_simulation_of_agents_is_fixed_by_its_job_and_serves_every_turn() -> None:
    reports = []
    for _ in range(2):
        simulation = Simulation(parse_job(job()))
        simulation.run()
        reports.append(report(simulation, cpu_s=0.0))
    assert reports[0] == reports[1]
    agents: Any = reports[0]["agents"]
    assert (agents["num_programs"], agents["num_turns"]) == (4, 12)
    assert agents["completion_s"]["mean"] > agents["turn_delay_s"]["p99"] > agents["turn_delay_s"]["p50"] > 0


def test_agents_run_beside_requests_and_clients_that_never_pause() -> None:
    clients = {"num_clients": 2, "num_prompt_tokens": 100, "num_output_tokens": 5, "until_s": 5}
    simulation = Simulation(parse_job(job(closed_loop=clients, requests=[[1.0, "ls", 10, 2]])))
    simulation.run()
    assert simulation.agent_times is not None
    assert len(simulation.agent_times.completions_s) == 4
    assert sum(one.request_class is RequestClass.LATENCY_SENSITIVE for one in simulation.outcomes) == 1


def test_without_agents_nothing_is_reported_of_them() -> None:
    simulation = Simulation(parse_job({"cost_table": "zero", "requests": [[0, "be", 5, 2]]}))
    simulation.run()
    assert report(simulation, cpu_s=0.0)["agents"] is None


def test_a_job_may_have_less_memory_than_its_table_and_limits_of_sessions() -> None:
    read = parse_job(job(num_blocks=500, num_host_blocks=0, settings={"session_ttl_s": 0, "session_min_records": 5}))
    assert (read.cost_table.num_blocks, read.cost_table.num_host_blocks) == (500, 0)
    assert (read.sessions.session_ttl_s, read.sessions.session_min_records) == (0.0, 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (job({"num_programs": 0}), "job.agents.num_programs: got 0"),
        (job({"turn_spread": "even"}), "job.agents.turn_spread: got 'even', allowed are fixed, geometric"),
        (job({"tools": []}), "job.agents.tools: allowed is a list of 1 to 100"),
        (job({"tools": [["a", 1.0]]}), r"job.agents.tools\[0\]: got"),
        (job({"tools": [["a", 0, 1.0]]}), r"job.agents.tools\[0\].mean_s: got 0"),
        (job({"tools": [["a", 1, 1], ["a", 2, 1]]}), "job.agents.tools: got a, a, allowed are different names"),
        (job({"num_turns": 100}), "job.agents: got programs of 39900 tokens after 100 turns, allowed are 32768"),
        (job({"pause_s": 1}), "job.agents: got pause_s"),
        (job(num_blocks=0), "job.num_blocks: got 0"),
        (job(settings={"session_ttl_s": -1}), "job.settings.session_ttl_s: got -1"),
    ],
)
def test_what_is_not_allowed_is_named_with_what_is(content: object, message: str) -> None:
    with pytest.raises(JobRefused, match=message):
        parse_job(content)
