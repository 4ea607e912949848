import math
from dataclasses import replace

import pytest
from qllm.client.bench.commands.simulate_agents import AgentOptions, LifetimeOptions
from qllm.client.bench.errors import BenchError
from qllm.client.bench.load.memory.programs import Tool
from qllm.client.bench.report.agent_tables import agents_grid
from qllm.client.bench.simulation.agents import BY_RULE, AgentResult, was_short


def result(mean_s: float, num_hits: int) -> AgentResult:
    spread = {"mean": mean_s, "p50": mean_s, "p99": 2 * mean_s}
    return AgentResult(5, 40, num_hits, 35 - num_hits, spread, spread, 0, 80.0, virtual_s=3600.0, cpu_s=1.0)


def test_a_tool_has_a_name_a_median_and_a_spread() -> None:
    assert Tool.parse("search=2:1") == Tool("search", 2.0, 1.0)
    assert Tool.parse("a test=15:0.5") == Tool("a test", 15.0, 0.5)
    traffic = AgentOptions(tool=["a test=2:1"]).traffic()
    assert traffic.job()["tools"] == [["a test", pytest.approx(2 * math.exp(0.5), abs=1e-6), 1.0]]


@pytest.mark.parametrize(
    "text",
    ["search", "=2:1", "search=", "search=2", "search=1.2.3:1", "search=1:.", "search=x:1", "search=1:nan", "s=1:40"],
)
def test_what_is_no_tool_is_refused(text: str) -> None:
    with pytest.raises(BenchError, match="--tool: got"):
        Tool.parse(text)


def test_all_times_to_live_meet_the_same_programs_and_one_keeps_nothing() -> None:
    jobs = LifetimeOptions(ttl="5").jobs(AgentOptions(rate=0.5, seconds=100).traffic())
    assert [job["settings"] for job in jobs.values()] == [{"session_ttl_s": 0.0}, {"session_ttl_s": 5.0}, {}]
    assert list(jobs) == ["0 s", "5 s", BY_RULE]
    agents = [job["agents"] for job in jobs.values()]
    assert agents[0] == agents[1] == agents[2]


def test_ratios_are_to_keeping_nothing_and_stand_above_what_the_paper_says() -> None:
    ways = {"0 s": (6.0, 0), "2 s": (4.0, 7), BY_RULE: (2.0, 35)}
    grid = agents_grid({label: [result(*each)] for label, each in ways.items()})
    rows = [list(row) for row in grid.rows]
    assert rows[1] == ["  times sooner", "1.00x", "1.50x", "3.00x"]
    assert ["turns that found their cache kept, %", "0.00", "20.00", "100.00"] in rows
    assert all(len(row) == len(grid.header) for row in grid.rows)


def test_several_seeds_give_a_mean_and_its_standard_error() -> None:
    grid = agents_grid({"0 s": [result(6.0, 0), result(8.0, 0)], BY_RULE: [result(2.0, 35), result(4.0, 35)]})
    assert grid.rows[0][1:] == ("7.00 ± 1.00", "3.00 ± 1.00")
    assert grid.rows[1][1:] == ("1.00 ± 0.00x", "2.50 ± 0.50x")


def test_memory_was_short_if_a_cache_gave_way_or_more_was_found_under_one_time() -> None:
    plenty = result(2.0, 7)
    assert not was_short({"0 s": [plenty, plenty], BY_RULE: [plenty, plenty]})
    assert was_short({"0 s": [plenty, plenty], BY_RULE: [plenty, replace(plenty, num_gave_way=1)]})
    assert was_short({"0 s": [plenty, replace(plenty, cached_percent=60.0)], BY_RULE: [plenty, plenty]})


def test_each_seed_has_programs_of_its_own_and_memory_is_the_table_s_unless_given() -> None:
    options = AgentOptions(seed=5)
    assert [options.traffic(number).seed for number in range(2)] == [5, 6]
    (job, *_) = LifetimeOptions().jobs(options.traffic()).values()
    assert "num_host_blocks" not in job
