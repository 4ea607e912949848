"""The worker's settings, its command line, and how its process ends."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from qllm.settings import SettingRefused

from gpu_worker.channel.curve import load_curve
from gpu_worker.settings import CurveFiles, Quantization, WorkerConfig
from tests.support.channel.control_channel import ROOT, ipc_endpoint, python_path

CHILD = (
    "import os, time; from gpu_worker.machine.process import die_with as d;"
    "d(os.getppid()); print('up', flush=True); time.sleep(600)"
)
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


def worker(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "gpu_worker", *arguments],
        env={**python_path(), **environment}, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "flag"),
    [
        ("model", "", "--model"),
        ("control_endpoint", "http://x", "--control-endpoint"),
        ("control_endpoint", "tcp://127.0.0.1:1", "CURVE"),
        ("num_threads", 0, "--threads"),
        ("block_size", 0, "--block-size"),
        ("num_blocks", 0, "--num-blocks"),
        ("kv_memory", "-1GiB", "--kv-memory: got '-1GiB', allowed is a size such as 2GiB or 512MiB, or a share"),
        ("kv_memory", "120%", "--kv-memory"),
        ("host_kv_gib", -0.1, "--host-kv-gib"),
        ("max_model_len", 1, "--max-model-len"),
    ],
)
def test_bad_setting_is_refused_with_its_flag(field: str, value: object, flag: str) -> None:
    with pytest.raises(SettingRefused, match=flag):
        WorkerConfig(**{"model": "m", "control_endpoint": "ipc:///tmp/x", field: value})  # type: ignore[arg-type]


def test_key_file_that_holds_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("")
    with pytest.raises(SettingRefused, match="CURVE"):
        load_curve(CurveFiles(tmp_path / "k", tmp_path / "k"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model", "m"], "--control-endpoint"),
        (["--model", "m", "--control-endpoint", "ipc:///tmp/x", "--dtype", "int3"], "int3"),
        (["--model", "m", "--control-endpoint", "ipc:///tmp/x", "--num-blocks", "-1"], "--num-blocks"),
        (["--model", "m", "--control-endpoint", "ipc:///tmp/x", "--curve-secret-key", "x"], "--curve-server-key"),
        (["--model", "m", "--control-endpoint", "tcp://127.0.0.1:1"], "CURVE"),
    ],
)
def test_bad_command_line_ends_with_code_2_and_a_clear_line(arguments: list[str], reason: str) -> None:
    done = worker(*arguments)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_environment_sets_what_the_command_line_does_not() -> None:
    done = worker(QLLM_MODEL="m", QLLM_CONTROL_ENDPOINT="ipc:///tmp/x", QLLM_BLOCK_SIZE="0")
    assert done.returncode == 2
    assert "--block-size: got 0" in done.stderr


@pytest.mark.parametrize("value", ["0", "1025"])
def test_a_range_holds_on_all_three_ways_in(value: str, tmp_path: Path) -> None:
    needed = ("--model", "m", "--control-endpoint", "ipc:///tmp/x")
    file = tmp_path / "qllm.toml"
    file.write_text(f"[worker]\nblock-size = {value}\n")
    said = [
        worker(*needed, "--block-size", value).stderr,
        worker(*needed, QLLM_BLOCK_SIZE=value).stderr,
        worker(*needed, "--config", str(file)).stderr,
    ]
    assert said == [
        f"qllm-worker: --block-size: got {value}, allowed is 1 to 1024\n",
        f"qllm-worker: --block-size: got {value} from the environment QLLM_BLOCK_SIZE, allowed is 1 to 1024\n",
        f"qllm-worker: {file}: [worker] block-size: got {value}, allowed is 1 to 1024\n",
    ]


def test_check_config_says_what_is_in_force_where_it_comes_from_and_starts_nothing(tmp_path: Path) -> None:
    file = tmp_path / "qllm.toml"
    file.write_text("threads = 2\nlog-level = 'debug'\n[scheduler]\nls-tpot-ms = 1\n[worker]\nthreads = 3\n")
    needed = ("--model", "/nonexistent/model", "--control-endpoint", "ipc:///tmp/x")
    done = worker(*needed, "--config", str(file), "--check-config", QLLM_DTYPE="Float32")
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in done.stdout.splitlines()}
    assert rows["--threads"] == f"3 file {file}"
    assert rows["--log-level"] == f"debug file {file}"
    assert rows["--dtype"] == "float32 environment QLLM_DTYPE"
    assert rows["--num-blocks"] == "as many as --kv-memory holds default"
    assert "--parent-pid" not in rows


def config(**given: int) -> WorkerConfig:
    return WorkerConfig(model="m", control_endpoint="ipc:///tmp/x", **given)  # type: ignore[arg-type]


def test_torchrun_says_in_how_many_processes_the_model_is_held_where_nothing_else_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert config().num_ranks == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert config().num_ranks == 2
    assert config(tensor_parallel_size=4).num_ranks == 4
    with pytest.raises(SettingRefused, match=r"--quantization: got bnb-4bit, allowed with .* over 1 is none"):
        WorkerConfig(model="m", control_endpoint="ipc:///tmp/x", quantization=Quantization.BNB_4BIT)
    monkeypatch.setenv("WORLD_SIZE", "65")
    with pytest.raises(SettingRefused, match="WORLD_SIZE: got 65, allowed is 1 to 64"):
        config()


def test_model_that_is_not_there_ends_with_code_2_and_one_clear_line() -> None:
    done = worker("--model", "/nonexistent/model", "--control-endpoint", "ipc:///tmp/x")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("qllm-worker: /nonexistent/model")
    assert "Traceback" not in done.stderr


def test_costs_are_not_recorded_where_times_come_from_a_table() -> None:
    with pytest.raises(SettingRefused, match=r"--record-costs: got c\.json, allowed with --simulated is nothing"):
        WorkerConfig(simulated="zero", record_costs=Path("c.json"), control_endpoint="ipc:///tmp/x")


def test_a_table_that_could_not_be_written_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    done = worker("--model", "m", "--control-endpoint", "ipc:///tmp/x", "--record-costs", f"{tmp_path}/none/c.json")
    assert done.returncode == 2
    assert f"qllm-worker: --record-costs: {tmp_path}/none/c.json can't be written (No such file" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_while_it_waits_for_a_scheduler_ends_it_with_code_0(number: signal.Signals) -> None:
    with ipc_endpoint() as endpoint:
        arguments = [sys.executable, "-m", "gpu_worker", "--model", str(ROOT / "demo/model")]
        arguments += ["--control-endpoint", endpoint, "--num-blocks", "32"]
        with subprocess.Popen(arguments, env=python_path(), cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert any("warmed_up" in line for line in process.stderr)
            process.send_signal(number)
            process.stderr.read()
            assert process.wait(30) == 0


def test_worker_dies_with_its_parent_however_that_ends() -> None:
    arguments = [sys.executable, "-c", PARENT]
    with subprocess.Popen(arguments, env=python_path(), cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        parent.kill()
        parent.wait()
        assert parent.stdout.read() == ""  # ends only when the child, which holds the other end, is gone


def test_worker_whose_parent_is_gone_already_does_not_start() -> None:
    done = worker("--model", "m", "--control-endpoint", "ipc:///tmp/x", "--parent-pid", "1")
    assert done.returncode != 0
    assert "parent 1 is gone" in done.stderr
