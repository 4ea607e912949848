"""`qllm-client bench` on the real service, as real processes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from qllm import AsyncClient
from qllm.client.bench.errors import ServiceFailed, TargetFailed
from qllm.client.bench.service import service
from qllm.client.bench.service.service import ServiceOptions, running_service
from qllm.client.errors import InvalidRequest

from tests.support.service.live_service import ROOT, LiveService

MODEL = ROOT / "demo" / "model"
# Open loops: how many requests the window holds depends on the seed alone, and the drain waits for all of them.
LOAD = "--ls-rate 4 --be-rate 6 --be-prompt-tokens 200 --be-max-tokens 16 --ls-prompt-tokens 20 --ls-max-tokens 8"
QUICK = f"{LOAD} --seconds 1.5 --warm-up 0.5 --idle-requests 3 --drain 300"

SIMULATED = ServiceOptions(str(MODEL), worker=("--simulated", "zero"))


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qllm.client", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)


def test_a_mixed_load_on_the_service_is_measured_with_its_own_counters(free: LiveService, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    finished = bench("--grpc", free.grpc_address, *QUICK.split(), "--json", str(file))
    assert finished.returncode == 0, finished.stderr
    values = json.loads(file.read_text())
    summary = values["summary"]
    assert summary["failures"] == {}
    assert summary["ls"]["num_done"] == summary["ls"]["num_requests"] > 0
    assert summary["be"]["num_done"] == summary["be"]["num_requests"] > 0
    assert summary["ls"]["ttft"]["mean_ms"] >= summary["ls"]["queue"]["mean_ms"] >= 0
    assert summary["ttft_to_idle"]["mean"] > 0
    assert values["target"]["details"]["policy"] == "qllm"
    assert 0 < values["counters"]["ls_busy_ns"] < values["counters"]["busy_ns"]
    rows = [dict(zip(values["rows"]["columns"], row, strict=True)) for row in values["rows"]["rows"]]
    assert {(row["request_class"], row["num_prompt_tokens"], row["num_tokens"]) for row in rows} == {
        ("ls", 20, 8),
        ("be", 200, 16),
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_ablation_runs_each_set_up_on_a_service_of_its_own(tmp_path: Path) -> None:
    file, picture = tmp_path / "a.json", tmp_path / "a.png"
    set_ups = ("fcfs", "qllm-layer", "qllm-expert")
    worker = "--worker-arg=--simulated=zero"
    outputs = ("--json", str(file), "--png", str(picture))
    chosen = [f"--set-up={name}" for name in set_ups]
    finished = bench("ablation", "--model", str(MODEL), *chosen, *QUICK.split(), *worker.split(), *outputs)
    assert finished.returncode == 0, finished.stderr
    values = json.loads(file.read_text())
    assert tuple(one["label"] for one in values["recordings"]) == set_ups
    details = [one["target"]["details"] for one in values["recordings"]]
    assert [one["policy"] for one in details] == ["fcfs", "qllm", "qllm"]
    assert [one["preempt_at"] for one in details[1:]] == ["layer", "expert"]
    arrivals = [[row[1] for row in one["rows"]["rows"] if row[0] == "ls"] for one in values["recordings"]]
    assert all(arrivals)
    assert values["gains"][-1]["name"] == "both"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert file.stat().st_size < 2**20


@pytest.mark.timeout(900)
def test_the_paper_s_experiment_runs_on_random_weights_and_prints_its_claims(tmp_path: Path) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("json", "png")}
    options = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    brief = (
        "--rates=8",
        "--seconds=2",
        "--warm-up=1",
        "--drain=300",
        "--max-output-tokens=8",
        "--max-prompt-tokens=64",
    )
    worker = ("--worker-arg=--threads=1", "--worker-arg=--kv-memory=50MiB", "--worker-arg=--host-kv-gib=0.01")
    result = bench("paper", "--geometry=tiny", "--set-up=qllm-expert", *worker, *brief, *options)
    assert result.returncode == 0, result.stderr
    assert "MEASURED: the claims of arXiv 2503.09304" in result.stdout
    content = json.loads(files["json"].read_text())
    assert [point["rate"] for point in content["points"]] == [8.0]
    results = content["points"][0]["results"]
    assert set(results) == {"fcfs", "qllm-expert"}
    assert results["fcfs"]["be"]["count"] == results["qllm-expert"]["be"]["count"] > 0
    assert files["png"].read_bytes().startswith(b"\x89PNG")


def processes_that_name(text: str) -> list[str]:
    """Command lines of running processes that hold the text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if text in line]


def test_control_c_while_a_service_starts_leaves_nothing_behind(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.symlink_to(MODEL)
    command = [sys.executable, "-m", "qllm.client", "bench", "ablation", "--model", str(model)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stderr is not None
        while "starting the service" not in process.stderr.readline():
            assert process.poll() is None
        while len(processes_that_name(str(model))) < 2:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
        assert "interrupted before anything was measured" in process.stderr.read()
    assert processes_that_name(str(model)) == []
    assert list(tmp_path.glob("*.log")) == []


def test_a_request_that_a_started_service_fails_is_told_with_the_end_of_its_log() -> None:
    async def fail() -> None:
        async with running_service(SIMULATED):
            raise TargetFailed("it refuses a prompt")

    with pytest.raises(ServiceFailed) as failed:
        asyncio.run(fail())
    said, first_line, *_ = str(failed.value).splitlines()
    log = _log_of(failed.value)
    assert said.startswith("it refuses a prompt; the service still runs. Its log is ")
    assert first_line in log.read_text()
    log.unlink()


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (InvalidRequest("prompt is empty"), InvalidRequest),
        (TargetFailed("it refuses a prompt", "INVALID_ARGUMENT"), ServiceFailed),
    ],
)
def test_a_failure_that_is_no_sign_of_a_dying_service_is_told_at_once(
    failure: Exception, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_DEATH_S", 1e6)

    async def fail() -> None:
        async with running_service(SIMULATED):
            raise failure

    with pytest.raises(raised, match=f"^{failure}") as told:
        asyncio.run(fail())
    assert (told.value is failure) is isinstance(failure, InvalidRequest)
    if isinstance(told.value, ServiceFailed):
        _log_of(told.value).unlink()


def test_a_started_service_that_dies_is_told_by_how_it_ended() -> None:
    async def kill() -> None:
        async with running_service(SIMULATED) as address, AsyncClient(address) as client:
            os.kill(_scheduler_pid(address), signal.SIGKILL)
            await client.generate([1, 2]).collect()

    with pytest.raises(ServiceFailed) as failed:
        asyncio.run(kill())
    said = str(failed.value).splitlines()[0]
    assert said.startswith("a request failed: UNAVAILABLE: ")
    assert "; the service ended with exit code -9. Its log is " in said
    _log_of(failed.value).unlink()


def _log_of(failure: ServiceFailed) -> Path:
    return Path(str(failure).splitlines()[0].removesuffix(" and ends with:").rpartition(" ")[2])


def _scheduler_pid(address: str) -> int:
    port = address.rpartition(":")[2].encode()
    children = (task / "children" for task in Path("/proc/self/task").iterdir())
    pids = [int(pid) for path in children for pid in path.read_text().split()]
    return next(pid for pid in pids if port in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"))
