"""`qllm-client bench simulate` as its user runs it: real processes, files out, clear refusals."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service.live_service import ROOT

A100 = "a100-mixtral-8x7b"


def simulate(*arguments: str, timeout_s: float = 400) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qllm.client", "bench", "simulate", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)


def test_a_sweep_prints_the_claims_and_writes_what_was_asked_for(tmp_path: Path) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("json", "html", "png")}
    options = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    result = simulate("--values", "1,3", "--seconds", "5", *options)
    assert result.returncode == 0, result.stderr
    assert "claims of arXiv 2503.09304" in result.stdout
    assert "SIMULATED" in result.stdout
    content = json.loads(files["json"].read_text())
    assert content["is_simulated"] is True
    assert [point["value"] for point in content["points"]] == [1.0, 3.0]
    assert set(content["points"][0]["results"]) == {
        "fcfs",
        "paper",
        "priority-iteration",
        "qllm-layer",
        "qllm-expert",
        "qllm-alone",
    }
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert "SIMULATED" in files["html"].read_text()


def test_a_trace_file_drives_it(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:00:{i:02d}.0000000,{50 + i},{5 + i % 7}" for i in range(40)]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    result = simulate("--trace", str(trace), "--time-scale", "0.5", "--ls-share", "0.3", "--set-up", "qllm-expert")
    assert result.returncode == 0, result.stderr
    assert "trace.csv, times multiplied by 0.5, 30% latency-sensitive" in result.stdout
    assert "claims" not in result.stdout


def test_clients_that_never_pause_are_simulated_on_several_machines_for_several_promises(tmp_path: Path) -> None:
    json_file, png = tmp_path / "out.json", tmp_path / "out.png"
    tables = ("zen3-mini-mixtral", "zen5-mini-mixtral")
    machines = [word for table in tables for word in ("--cost-table", table)]
    options = ("--sweep", "ls-tpot", "--values", "20,50", "--seconds", "20", "--set-up", "qllm-expert")
    result = simulate("--be-clients", "4", *options, *machines, "--json", str(json_file), "--png", str(png))
    assert result.returncode == 0, result.stderr
    assert "SIMULATED on zen3-mini-mixtral: LS TTFT, mean" in result.stdout
    assert "beside 4 best-effort clients of 1,100 + 64" in result.stdout
    assert "claims" not in result.stdout
    found = json.loads(json_file.read_text())["points"]
    assert [(one["cost_table"], one["value"]) for one in found] == [(table, ms) for table in tables for ms in (20, 50)]
    for point in found:
        own = point["results"]["qllm-expert"]["classes"]
        assert own["ls"]["tpot"]["mean_ms"] > 0
        assert own["be"]["tokens_per_s"] > 0
        assert 0 <= own["ls"]["both_attainment"] <= min(own["ls"]["attainment"], own["ls"]["tpot_attainment"]) <= 1
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--values", "a"), "--values: got 'a'"),
        (("--set", "speed=2"), "job.settings: got speed, allowed are max_num_seqs"),
        (("--trace", "nowhere.csv"), "nowhere.csv"),
        (("--trace", "nowhere.csv", "--be-clients", "2"), "--be-clients: allowed without --trace only"),
        (("--cost-table", "zero", "--cost-table", A100), "--cost-table: got 2, allowed is one, and several with"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = simulate("--seconds", "1", *arguments)
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("qllm-client: ")
    assert message in line


def test_the_simulator_itself_refuses_what_is_no_job() -> None:
    command = [sys.executable, "-m", "scheduler_svc.simulation"]
    result = subprocess.run(command, cwd=ROOT, input="{", capture_output=True, text=True, timeout=400, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("simulation: stdin holds no JSON")


def test_agents_are_simulated_under_several_times_to_live(tmp_path: Path) -> None:
    json_file = tmp_path / "out.json"
    options = (
        "--rate",
        "0.2",
        "--seconds",
        "10",
        "--cost-table",
        "h200-mixtral-8x7b",
        "--num-blocks",
        "1000",
        "--seeds",
        "2",
    )
    command = [sys.executable, "-m", "qllm.client", "bench", "simulate-agents", *options, "--json", str(json_file)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert result.returncode == 0, result.stderr
    assert "program's completion, mean seconds" in result.stdout
    results = json.loads(json_file.read_text())["results"]
    assert list(results) == ["0 s", "2 s", "20 s", "by the rule"]
    assert [one["num_turns"] for one in results["2 s"]] == [16, 16]


def test_agents_that_do_not_fit_the_model_are_refused_in_one_line() -> None:
    command = [sys.executable, "-m", "qllm.client", "bench", "simulate-agents", "--turns", "1000"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    why = "job.agents: got programs of 401700 tokens after 1000 turns, allowed are 32768"
    assert result.stderr == f"qllm-client: simulation: {why}\n"
