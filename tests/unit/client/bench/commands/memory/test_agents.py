import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from qllm.client.bench.commands.memory.agents import _run_programs
from qllm.client.bench.errors import TargetFailed
from qllm.client.bench.load.memory.agent_load import AgentLoad, ProgramRecord
from qllm.client.bench.load.memory.asking import Answer
from qllm.client.bench.load.memory.programs import Program, Step
from qllm.client.bench.load.target import TargetFacts
from qllm.client.bench.options.agents import AgentOptions
from qllm.client.bench.results.agents import figures_of
from qllm.client.bench.set_ups import SessionSetUp, session_variant

from tests.unit.client.bench.as_process import call
from tests.unit.client.bench.fake_target import FakeTarget
from tests.unit.client.fake_service import FakeService
from tests.unit.client.in_process import run_here

QUICK = (
    "--programs 6 --learn 2 --rounds 2 --rate 100 --least-turns 2 --most-turns 3 --first-tokens 20 --tool-tokens 5 "
    "--output-tokens 3 --tool here=0.01:0.1 --be-clients 2 --be-prompt-tokens 5 --be-max-tokens 2"
)
PROGRAM = Program(0, 0.0, (Step(40, 5, "read", 2.0), Step(10, 4, None, 0.0)))


def test_delays_are_times_to_first_tokens_and_jobs_are_complete_with_their_tools() -> None:
    answers = [Answer(0.1, 0.5, (), 40, 0), Answer(0.3, 0.5, (), 60, 45)]
    records = [ProgramRecord(PROGRAM, answers, 3.0), ProgramRecord(PROGRAM, answers[:1], None, "UNAVAILABLE: no")]
    figures = figures_of(records, {"num_session_hits": 1})
    assert (figures["num_programs"], figures["num_failed"], figures["num_turns"]) == (2, 1, 2)
    assert figures["turn_delay_ms"] == pytest.approx(200)
    assert figures["later_turn_delay_ms"] == pytest.approx(300)
    assert (figures["job_s"], figures["tools_s"], figures["hit_percent"]) == (3.0, 2.0, 75.0)
    assert (figures["num_session_hits"], figures["num_drops"]) == (1, None)


def test_set_ups_differ_in_how_long_caches_are_kept() -> None:
    assert session_variant(SessionSetUp.WITHOUT, 5).scheduler == ("--session-ttl-s", "0")
    assert session_variant(SessionSetUp.FIXED, 7.5).scheduler == ("--session-ttl-s", "7.5")
    assert session_variant(SessionSetUp.RULE, 5).scheduler == ()


async def test_programs_run_on_a_service_round_by_round(service: FakeService, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    options = ["--set-up", "rule", *QUICK.split(), "--json", str(file)]
    finished = await call("agents", "--grpc", service.address, *options)
    assert finished.code == 0, finished.err
    assert "turn delay, mean ms" in finished.out
    first, second = json.loads(file.read_text())["turns"]["rule"]
    assert first["num_programs"] == second["num_programs"] == 4
    assert first["num_failed"] == 0
    assert first["be_tokens_per_s"] > 0
    sessions = {request.session.session_id for request in service.requests if request.HasField("session")}
    assert sessions == {f"round-{number}-{index}" for number in range(2) for index in range(6)}


async def test_a_failed_program_fails_the_command(service: FakeService) -> None:
    service.refuses_sessions = True
    finished = await call("agents", "--grpc", service.address, "--set-up", "rule", *QUICK.split(), "--rounds", "1")
    assert finished.code == 1
    assert "INTERNAL: no sessions here" in finished.out + finished.err


async def test_programs_are_given_up_at_once_when_a_client_beside_them_fails() -> None:
    options = AgentOptions(programs=1, rate=1e-3, be_clients=2)  # the program comes in about 1,000 s
    load = AgentLoad(FakeTarget(failure="INTERNAL"), options.request_class, 50, 0, "a")
    with pytest.raises(TargetFailed, match="the server fails a best-effort request"):
        await asyncio.wait_for(_run_programs(load, [Program(0, 1e3, PROGRAM.steps)], options), 5)


def test_no_program_wants_more_than_the_model_takes() -> None:
    facts = TargetFacts("fake", "nowhere", "mini", 50, {}, block_size=16, num_blocks=1000, max_model_len=700)
    assert AgentOptions().agents(facts, 0).longest_tokens == 700
    assert AgentOptions().agents(replace(facts, num_blocks=50), 0).longest_tokens == 400


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--tool", "search"], "got 'search', allowed is NAME=MEDIAN_S:SIGMA"),
        (["--tool", "search=0:1"], "got 'search=0:1', allowed is NAME=MEDIAN_S:SIGMA"),
        (["--least-turns", "9"], "got 9, allowed is at most --most-turns, 8"),
        (["--learn", "60"], "got 60, allowed is fewer than --programs, 60"),
    ],
)
async def test_what_programs_can_t_be_is_refused(arguments: list[str], reason: str) -> None:
    finished = await run_here("bench", "agents", "--serve", "m", *arguments)
    assert finished.code == 2
    assert reason in " ".join(finished.err.replace("│", " ").split())
