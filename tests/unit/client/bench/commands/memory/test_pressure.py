import json
from pathlib import Path

import pytest

from tests.unit.client.bench.as_process import call
from tests.unit.client.fake_service import AT_REST, FakeService
from tests.unit.client.in_process import run_here

# 64 blocks of 16 tokens: as many requests of ten blocks each want ten times as many.
QUICK = (
    "--prompts 3 --idle-requests 2 --warm-up 0.05 --seconds 0.3 --ls-rate 20 --be-prompt-tokens 150 --be-max-tokens 4 "
    "--ls-prompt-tokens 5 --ls-max-tokens 2"
)


async def test_a_service_whose_answers_stay_the_same_passes(service: FakeService, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    service.step_s, service.memory = 0.05, AT_REST
    finished = await call("pressure", "--grpc", service.address, *QUICK.split(), "--json", str(file))
    assert finished.code == 0, finished.err
    assert "answers compared" in finished.out
    values = json.loads(file.read_text())
    (figures,) = values["turns"]["offload"]
    assert figures["num_be_clients"] == 64
    assert figures["demand_x"] == 10
    assert (figures["num_not_done"], figures["num_different"], figures["num_leaked_blocks"]) == (0, 0, 0)
    assert figures["num_compared"] > 50
    assert figures["num_offloads"] > 50
    assert service.max_live >= 64
    assert len({request.cache_salt for request in service.requests}) == len(service.requests)


async def test_problems_in_the_books_fail_the_run_and_are_named(service: FakeService) -> None:
    service.problems, service.memory = ["block 3 is held twice"], AT_REST
    finished = await call("pressure", "--grpc", service.address, *QUICK.split())
    assert finished.code == 1
    assert "offload: the books: block 3 is held twice" in finished.err


async def test_blocks_that_stay_held_fail_the_run(service: FakeService) -> None:
    finished = await call("pressure", "--grpc", service.address, *QUICK.split())
    assert finished.code == 1
    assert "offload: 40 blocks are held though nothing runs any more" in finished.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--seconds", "1"), "name one service; given: none"),
        (("--serve", "m", "--grpc", "127.0.0.1:9"), "name one service; given: --serve and --grpc"),
        (("--grpc", "127.0.0.1:9", "--set-up", "offload", "--set-up", "recompute"), "several set-ups need services"),
    ],
)
async def test_a_command_line_that_names_no_one_service_is_refused(arguments: tuple[str, ...], reason: str) -> None:
    finished = await run_here("bench", "pressure", *arguments)
    assert finished.code == 2
    assert reason in " ".join(finished.err.replace("│", " ").split())
