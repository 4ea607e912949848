import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from qllm.client.bench.results.result_file import dump

from tests.unit.client.bench.as_process import call, start
from tests.unit.client.bench.fake_openai import FakeOpenAI
from tests.unit.client.bench.samples import result
from tests.unit.client.fake_service import FakeService
from tests.unit.client.in_process import run_here

QUICK = (
    "--seconds 0.4 --warm-up 0.1 --idle-requests 2 --drain 300 "
    "--ls-rate 20 --be-clients 2 --be-prompt-tokens 20 --be-max-tokens 4"
)


async def test_a_grpc_service_is_measured(service: FakeService, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    finished = await call("--grpc", service.address, *QUICK.split(), "--label", "ours", "--json", str(file))
    assert finished.code == 0, finished.err
    assert "TTFT, mean" in finished.out
    values = json.loads(file.read_text())
    assert (values["label"], values["target"]["kind"], values["target"]["details"]["policy"]) == (
        "ours",
        "grpc",
        "qllm",
    )
    assert values["provenance"]["command"][:3] == ["qllm-client", "bench", "--grpc"]
    assert values["summary"]["ls"]["num_done"] == len([row for row in values["rows"]["rows"] if row[0] == "ls"]) > 0
    assert values["summary"]["idle_ttft"]["count"] == 2
    classes = {request.request_class for request in service.requests}
    assert classes == {1, 2}


async def test_any_openai_server_is_measured(openai: FakeOpenAI, tmp_path: Path) -> None:
    file, page = tmp_path / "a.json", tmp_path / "a.html"
    options = ["--http", openai.url, "--priority-field", "priority", *QUICK.split()]
    finished = await call(*options, "--json", str(file), "--html", str(page))
    assert finished.code == 0, finished.err
    values = json.loads(file.read_text())
    assert values["target"]["model"] == "first"
    assert values["summary"]["ls"]["queue"] is None
    assert {body["priority"] for body in openai.bodies} == {0, 1}
    assert "<svg" in page.read_text()


async def test_control_c_ends_early_with_what_was_measured(service: FakeService, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    quick = QUICK.replace("--seconds 0.4", "--seconds 600")
    process = await start("--grpc", service.address, *quick.split(), "--json", str(file))
    assert process.stderr is not None
    while b"measuring" not in await asyncio.wait_for(process.stderr.readline(), 300):
        pass
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 300)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert b"ended early" in err
    assert json.loads(file.read_text())["is_interrupted"] is True


async def test_control_c_before_the_window_measures_nothing(service: FakeService, tmp_path: Path) -> None:
    service.step_s = 30.0
    file = tmp_path / "a.json"
    process = await start("--grpc", service.address, *QUICK.split(), "--json", str(file))
    await asyncio.wait_for(service.received.wait(), 300)
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 300)
    assert (process.returncode, out) == (130, b"")
    assert b"nothing was measured" in err
    assert not file.exists()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("--seconds 3", "name one server; given: none"),
        ("--grpc a:1 --http b", "name one server; given: --grpc and --http"),
        ("--grpc a:1 --ls-rate 1 --ls-clients 2", "--ls-rate and --ls-clients"),
        ("--grpc a:1 --trace x.csv --be-clients 2", "it holds both classes"),
        ("--grpc a:1 --ls-rate 0 --be-clients 0", "nobody asks"),
        ("--grpc a:1 --chat", "over --http"),
        ("--http a --chat --prompt-form tokens", "a conversation has no token ids"),
        ("--grpc a:1 --json nowhere/a.json", "there is no folder nowhere"),
        ("--ls-rate 3 compare a.json", "options of 'compare' stand after its name"),
        ("ablation --model x --set-up vip", "vip"),
        ("goodput --seconds 3", "name one server; given: none"),
        ("goodput --grpc a:1 --windows 3 --max-windows 2", "got 2, allowed is 3 or more, as --windows says"),
        ("goodput --grpc a:1 --set-up fcfs", "it says how the service of --serve is started"),
        ("goodput --serve x --set-up fcfs --label y", "set-ups are called by their own names"),
        ("goodput --http a --chat --prompt-form tokens", "a conversation has no token ids"),
    ],
)
async def test_wrong_usage_is_said_and_exits_2(arguments: str, why: str) -> None:
    finished = await run_here("bench", *arguments.split())
    assert (finished.code, finished.out) == (2, "")
    said = " ".join(finished.err.replace("│", " ").split())
    assert why in said


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("--grpc a:1 --seconds 0", "--seconds: got 0, allowed is 0.1 or more"),
        ("--grpc a:1 --ls-share 2", "--ls-share: got 2, allowed is 0 to 1"),
        ("--grpc a:1 --drain nan", "--drain: got nan, allowed is 0 or more"),
        ("--grpc a:1 --seconds inf", "--seconds: got inf, allowed is a finite number, 0.1 or more"),
        ("paper --geometry tiny --drain inf", "--drain: got inf, allowed is a finite number, 0 or more"),
        ("simulate --rate nan", "--rate: got nan, allowed is 0.001 to 10000"),
        ("goodput --grpc a:1 --attainment 99", "--attainment: got 99, allowed is 0 to 1"),
        ("paper --geometry tiny --max-output-tokens 3", "--max-output-tokens: got 3, allowed is 4 to 8192"),
    ],
)
async def test_a_number_out_of_range_is_refused_in_one_line(arguments: str, why: str) -> None:
    finished = await run_here("bench", *arguments.split())
    assert (finished.code, finished.out, finished.err) == (2, "", f"qllm-client: {why}\n")


async def test_the_last_answers_may_be_waited_for_without_end(service: FakeService) -> None:
    quick = QUICK.replace("--drain 300", "--drain inf --slo-ttft-ms inf --be-pause inf")
    finished = await call("--grpc", service.address, *quick.split())
    assert finished.code == 0, finished.err
    assert "TTFT, mean" in finished.out


@pytest.mark.parametrize(("body", "why"), [("{", "it is no JSON"), ("[1]", "a JSON object is wanted")])
async def test_wrong_json_is_said_and_exits_2(body: str, why: str) -> None:
    finished = await call("--http", "a", "--extra-body", body)
    assert (finished.code, finished.out) == (2, "")
    assert why in finished.err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("--grpc 127.0.0.1:9 --ls-rate 1", "no service answers at 127.0.0.1:9"),
        ("--http http://127.0.0.1:9", "no server answers at http://127.0.0.1:9/v1/models"),
        ("--grpc a:1 --trace nowhere.csv", "nowhere.csv"),
        ("compare nowhere.json", "nowhere.json"),
        ("ablation --model /nowhere --seconds 1", "it never served"),
    ],
)
async def test_what_cannot_be_measured_is_said_and_exits_1(arguments: str, why: str) -> None:
    finished = await call(*arguments.split())
    assert (finished.code, finished.out) == (1, "")
    assert why in finished.err
    assert "Traceback (most recent call last)" not in finished.err.split("ends with:")[0]


@pytest.mark.parametrize("form", [("--compare",), ("compare",)])
async def test_results_are_compared_by_either_name(tmp_path: Path, form: tuple[str, ...]) -> None:
    paths = []
    for name in ("ours", "theirs"):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(dump(result(name).to_json()))
    finished = await run_here("bench", *form, *map(str, paths))
    assert finished.code == 0, finished.err
    assert "ours" in finished.out
    assert "theirs" in finished.out


@pytest.mark.parametrize("arguments", [[], ["compare"], ["ablation"], ["goodput"]])
async def test_help_teaches(arguments: list[str]) -> None:
    finished = await run_here("bench", *arguments, "--help")
    assert finished.code == 0
    assert "qllm-client bench" in finished.out


def test_the_client_starts_without_the_libraries_of_the_benchmark() -> None:
    code = "import sys, client.__main__; sys.exit(any(name in sys.modules for name in ('matplotlib', 'httpx2')))"
    import subprocess

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
