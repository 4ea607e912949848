import asyncio
import json
import signal
from pathlib import Path

from tests.unit.client.bench.as_process import call, start
from tests.unit.client.bench.fake_openai import FakeOpenAI
from tests.unit.client.fake_service import FakeService

# Targets that no machine is too slow for, so that every level holds.
QUICK = (
    "--seconds 0.3 --warm-up 0.05 --idle-requests 2 --drain 300 --ls-rate 20 --be-prompt-tokens 20 --be-max-tokens 4 "
    "--slo-ttft-to-idle 1e9 --slo-tpot-ms 1e9 --attainment 0.5 --max-be-clients 2"
)


async def test_a_grpc_service_is_searched(service: FakeService, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    finished = await call("goodput", "--grpc", service.address, *QUICK.split(), "--label", "ours", "--json", str(file))
    assert finished.code == 0, finished.err
    said = " ".join(finished.out.split())
    assert "Goodput: the most BE tokens/s while 50 % of LS requests keep both targets" in said
    values = json.loads(file.read_text())
    (server,) = values["servers"]
    assert [level["num_be_clients"] for level in server["levels"]] == [0, 1, 2]
    assert values["goodput_tokens_per_s"]["ours"] > 0
    assert server["provenance"]["config"]["max_be_clients"] == 2
    assert server["target"]["details"]["policy"] == "qllm"


async def test_any_openai_server_is_searched_and_compared_with_another(openai: FakeOpenAI, tmp_path: Path) -> None:
    file, page = tmp_path / "a.json", tmp_path / "a.html"
    options = ["--http", openai.url, "--priority-field", "priority", "--label", "theirs", *QUICK.split()]
    finished = await call("goodput", *options, "--json", str(file), "--html", str(page))
    assert finished.code == 0, finished.err
    assert "theirs: goodput" in page.read_text()
    assert {body["priority"] for body in openai.bodies} == {0, 1}
    compared = await call("compare", str(file), str(file), "--png", str(tmp_path / "a.png"))
    assert compared.code == 0, compared.err
    assert "theirs #2" in compared.out


async def test_control_c_prints_what_was_found_so_far(service: FakeService, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    endless = ("--windows", "1000", "--max-windows", "1000", "--json", str(file))
    process = await start("goodput", "--grpc", service.address, *QUICK.split(), *endless)
    assert process.stderr is not None
    while b"window 3 of 1000" not in (line := await asyncio.wait_for(process.stderr.readline(), 300)):
        assert line, "it ended by itself"
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 300)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert b"ended early" in err
    assert b"not known yet" in out
    (server,) = json.loads(file.read_text())["servers"]
    assert server["is_interrupted"] is True
    assert len(server["levels"]) == 1


async def test_control_c_before_the_first_window_is_over_finds_nothing(service: FakeService, tmp_path: Path) -> None:
    service.step_s = 30.0
    file = tmp_path / "a.json"
    process = await start("goodput", "--grpc", service.address, *QUICK.split(), "--json", str(file))
    await asyncio.wait_for(service.received.wait(), 300)
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 300)
    assert (process.returncode, out) == (130, b"")
    assert b"nothing was found" in err
    assert not file.exists()


async def test_a_server_that_is_not_there_is_said() -> None:
    finished = await call("goodput", "--grpc", "127.0.0.1:9", "--seconds", "1")
    assert (finished.code, finished.out) == (1, "")
    assert "no service answers at 127.0.0.1:9" in finished.err
