"""The scheduler's settings: one definition each, which the command line, the environment and a file all go through."""

from pathlib import Path

import pytest
import typer
from qllm.settings import SettingRefused
from typer.testing import CliRunner, Result

from scheduler_svc.__main__ import serve
from scheduler_svc.core.policies import POLICIES, Limits
from scheduler_svc.serving.engine_settings import EngineSettings
from scheduler_svc.settings import Config

SERVING = ("--control-endpoint", "ipc:///nowhere")


def call(*words: str, **environment: str) -> Result:
    app = typer.Typer(add_completion=False)
    app.command()(serve)
    return CliRunner().invoke(app, words, env=environment, prog_name="qllm-scheduler", catch_exceptions=False)


def in_force(*words: str, **environment: str) -> dict[str, tuple[str, str]]:
    """Returns what --check-config says: each option's value, and where it comes from."""
    result = call("--check-config", *SERVING, *words, **environment)
    assert result.exit_code == 0, result.stderr
    rows = [line.split(maxsplit=2) for line in result.stdout.splitlines() if line.startswith("--")]
    return {name: (value, source) for name, value, source in rows}


def test_every_limit_of_the_policies_is_set_by_its_option() -> None:
    limits = Limits(ls_ttft_s=0.2, ls_tpot_s=0.04, preemption_quantum_s=0.002, max_num_seqs=8)
    given = {"--ls-ttft-ms": "200", "--ls-tpot-ms": "40", "--preemption-quantum-ms": "2", "--max-num-seqs": "8"}
    rows = in_force(*[word for pair in given.items() for word in pair])
    assert {name: rows[name] for name in given} == {name: (value, "command line") for name, value in given.items()}
    assert Config(control_endpoint="ipc:///x", engine=EngineSettings(limits=limits)).engine.limits == limits


def test_what_is_left_out_has_the_cores_own_defaults() -> None:
    rows = in_force()
    assert rows["--ls-tpot-ms"] == (f"{Limits().ls_tpot_s * 1e3:g}", "default")
    assert rows["--command-window-ms"] == (f"{Limits().command_window_s * 1e3:g}", "default")
    assert rows["--policy"] == (EngineSettings().policy, "default")


def test_options_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "qllm.toml"
    file.write_text("be-min-share = 0.1\nls_tpot_ms = 20\n[scheduler]\nmax-num-seqs = 8\n[worker]\nthreads = 3\n")
    rows = in_force("--config", str(file), "--ls-tpot-ms", "40", QLLM_LS_TPOT_MS="30", QLLM_MAX_NUM_SEQS="9")
    assert rows["--be-min-share"] == ("0.1", f"file {file}")
    assert rows["--max-num-seqs"] == ("9", "environment QLLM_MAX_NUM_SEQS")
    assert rows["--ls-tpot-ms"] == ("40", "command line")


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("--ls-tpot-ms", "-1"), "--ls-tpot-ms: got -1, allowed is 0 to 60000"),
        (("--grpc-port", "70000"), "--grpc-port: got 70000, allowed is 0 to 65535"),
        (("--preemption-quantum-ms", "0"), "--preemption-quantum-ms: got 0, allowed is 0.1 to 10000"),
        (
            ("--command-window-ms", "4", "--preemption-quantum-ms", "4.5"),
            "--command-window-ms: got 4, allowed is --preemption-quantum-ms, 4.5, or more",
        ),
        (
            ("--command-window-ms", "4.9999999"),
            "--command-window-ms: got 4.9999999, allowed is --preemption-quantum-ms, 5, or more",
        ),
        (("--curve-secret-key", "k"), "CURVE needs both --curve-secret-key and --curve-worker-keys"),
        (("--grpc-host", "no such host"), "--grpc-host: got 'no such host', allowed is an IP address"),
        (("--metrics-host", "no such host"), "--metrics-host: got 'no such host', allowed is an IP address"),
        (("--trace", "/nowhere/t.json"), "--trace: got /nowhere/t.json, allowed is a file in a directory that exists"),
        (("--", "--dtype", "x"), "arguments after --: got --dtype x, allowed with --spawn-worker"),
    ],
)
def test_check_config_refuses_what_a_start_would_refuse(words: tuple[str, ...], refusal: str) -> None:
    result = call("--check-config", *SERVING, *words)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"qllm-scheduler: {refusal}")
    assert result.stderr.count("\n") == 1


def test_a_policy_is_refused_in_a_program_too() -> None:
    with pytest.raises(SettingRefused, match=f"--policy: got 'lifo', allowed are {', '.join(POLICIES)}"):
        Config(control_endpoint="ipc:///x", engine=EngineSettings(policy="lifo"))
