import asyncio
from dataclasses import replace
from statistics import median

import pytest
from qllm.client.bench.load.memory.agent_load import AgentLoad
from qllm.client.bench.load.memory.programs import Agents, Program, Step, Tool
from qllm.client.bench.load.workload import BE, LS, Lengths

from tests.unit.client.bench.fake_target import FakeTarget
from tests.unit.client.bench.load.caching_target import CachingTarget

TOOLS = [Tool("read", 0.3, 0.6), Tool("tests", 4.0, 1.0)]
AGENTS = Agents(2.0, (3, 8), 400, 100, 32, 0.4, TOOLS, 4096, 0)
PROGRAM = Program(3, 0.0, (Step(40, 5, "read", 0.01), Step(10, 4, "tests", 0.01), Step(10, 3, None, 0.0)))


def test_the_same_programs_come_each_time_and_others_with_another_seed() -> None:
    assert list(AGENTS.programs(20)) == list(AGENTS.programs(20))
    assert list(AGENTS.programs(20)) != list(replace(AGENTS, seed=1).programs(20))


def test_programs_come_at_the_rate_with_turns_and_tools_as_they_were_asked_for() -> None:
    programs = list(AGENTS.programs(2000))
    assert programs[-1].at_s == pytest.approx(1000, rel=0.1)
    assert {len(program.steps) for program in programs} == set(range(3, 9))
    assert median(program.steps[0].num_new_tokens for program in programs) == pytest.approx(400, rel=0.1)
    called = [step for program in programs for step in program.steps[:-1]]
    for tool in TOOLS:
        times_s = [step.tool_s for step in called if step.tool == tool.name]
        assert median(times_s) == pytest.approx(tool.median_s, rel=0.1)
    assert all(program.steps[-1].tool is None for program in programs)


def test_no_program_grows_beyond_what_it_may() -> None:
    for program in replace(AGENTS, longest_tokens=300).programs(500):
        assert sum(step.num_new_tokens + step.num_output_tokens for step in program.steps) <= 300
        assert program.steps


async def test_a_program_is_a_session_whose_turns_repeat_all_before_and_name_their_tools() -> None:
    target = CachingTarget()
    load = AgentLoad(target, LS, 10**6, 0, "here")
    await load.run([PROGRAM])
    turns = [ask.turn for ask in target.asks]
    assert [(turn.session_id, turn.expects_tool_call, turn.is_last) for turn in turns if turn is not None] == [
        ("here-3", "read", False),
        ("here-3", "tests", False),
        ("here-3", "", True),
    ]
    (record,) = load.records
    assert [answer.num_prompt_tokens for answer in record.answers] == [40, 55, 69]
    assert [answer.num_cached_tokens for answer in record.answers] == [0, 45, 59]
    assert record.total_s is not None
    assert record.total_s >= 0.02
    assert load.most_tokens == 72


async def test_a_program_whose_request_fails_ends_and_others_go_on() -> None:
    load = AgentLoad(FakeTarget(failure="UNAVAILABLE"), LS, 50, 0, "here")
    await load.run([PROGRAM, replace(PROGRAM, index=4)])
    assert [record.failure for record in load.records] == ["UNAVAILABLE: it was asked to"] * 2
    assert [record.total_s for record in load.records] == [None, None]


async def test_background_clients_ask_until_they_are_cancelled() -> None:
    target = FakeTarget()
    load = AgentLoad(target, LS, 50, 0, "here")
    asking = asyncio.create_task(load.run_background(3, Lengths(10, 2)))
    await asyncio.sleep(0.1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert {ask.request_class for ask in target.asks} == {BE}
    assert target.max_live == 3
    assert target.num_live == 0
