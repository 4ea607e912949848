"""The proof of the GPU path, rehearsed on this machine's CPU: real processes, all steps, steps that crash or hang."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.service.live_service import ROOT

LONG_S = 500.0


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "scripts.gpu_proof", "--rehearse", "--device", "cpu", "--minutes", "60"]
    return subprocess.Popen(
        [*command, "--out", str(folder), *options], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def results(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "results.json").read_text()))


def statuses(folder: Path) -> dict[str, str]:
    return {name: step["status"] for name, step in results(folder)["steps"].items()}


def wait_for(folder: Path, step: str, status: str) -> None:
    """Waits until a step is in a state by the summary, which is the last file to be written."""
    deadline_s = time.monotonic() + LONG_S
    summary = folder / "summary.txt"
    while not summary.exists() or f"{step:12} {status}" not in summary.read_text():
        assert time.monotonic() < deadline_s, (folder / "log.txt").read_text()
        time.sleep(0.05)


def test_every_step_passes_on_a_cpu_and_leaves_figures_in_a_few_small_files(tmp_path: Path) -> None:
    proof = start(tmp_path)
    output, _ = proof.communicate(timeout=LONG_S)
    assert proof.returncode == 0, output + (tmp_path / "log.txt").read_text()[-4000:]
    steps = results(tmp_path)["steps"]
    assert set(statuses(tmp_path).values()) == {"passed"}
    assert steps["smoke"]["figures"]["float32: tokens of LS equal to generate's"] == {"equal": 24, "of": 24}
    interrupted = steps["smoke"]["figures"]["float32: tokens of interrupted BE equal to generate's"]
    assert interrupted["equal"] == interrupted["of"] > 0
    assert "bfloat16: tokens of LS equal to generate's" in steps["smoke"]["figures"]
    assert sum(steps["gpu_tests"]["figures"]["tests"].values()) > 25  # skipped, where there is no device
    assert {"eager, batch 1", "eager, batch 8", "eager, batch 32"} <= set(steps["decode"]["figures"])
    assert all(figure["p50_ms"] > 0 for figure in steps["preemption"]["figures"].values())
    assert {"fcfs at 8/s", "qllm-expert at 8/s"} == set(steps["paper"]["figures"])
    assert "model" not in steps["paper"]["figures"]  # made once, by decode, in the process that both run in
    assert output.endswith((tmp_path / "summary.txt").read_text() + "\n")
    log = (tmp_path / "log.txt").read_text()
    assert "gpu_worker.startup.capacity cache blocks=" in log  # of the step's own process
    files = list(tmp_path.iterdir())
    assert len(files) <= 8
    assert all(file.is_file() and file.stat().st_size < 16 << 20 for file in files)


def test_a_step_that_crashes_and_one_that_hangs_cost_only_themselves(tmp_path: Path) -> None:
    faults = ("--fault", "environment=crash", "--fault", "smoke=hang", "--box", "smoke=3")
    proof = start(tmp_path, "--skip", "gpu_tests", "--skip", "preemption", "--skip", "paper", *faults)
    output, _ = proof.communicate(timeout=LONG_S)
    assert proof.returncode == 1
    skipped = dict.fromkeys(("gpu_tests", "preemption", "paper"), "skipped")
    assert statuses(tmp_path) == skipped | {"environment": "crashed", "smoke": "timed out", "decode": "passed"}
    assert "SIGSEGV" in output
    assert "_misbehave" in (tmp_path / "log.txt").read_text()  # where the step hung


def test_a_model_that_crashed_is_made_anew_for_the_next_step(tmp_path: Path) -> None:
    proof = start(tmp_path, "--only", "decode", "--only", "preemption", "--fault", "decode=crash")
    proof.communicate(timeout=LONG_S)
    assert statuses(tmp_path)["preemption"] == "passed"
    assert "model" in results(tmp_path)["steps"]["preemption"]["figures"]


def test_what_was_found_before_a_kill_is_on_disk_and_on_the_screen(tmp_path: Path) -> None:
    proof = start(tmp_path, "--only", "environment", "--only", "smoke", "--fault", "smoke=hang")
    wait_for(tmp_path, "smoke", "running")
    os.kill(proof.pid, signal.SIGKILL)
    output, _ = proof.communicate(timeout=LONG_S)
    assert "environment  passed" in output
    summary = (tmp_path / "summary.txt").read_text()
    assert "environment  passed" in summary
    assert "smoke        running" in summary


def test_a_signal_ends_it_with_a_whole_summary(tmp_path: Path) -> None:
    proof = start(tmp_path, "--only", "smoke", "--only", "decode", "--fault", "smoke=hang")
    wait_for(tmp_path, "smoke", "running")
    proof.send_signal(signal.SIGTERM)
    output, _ = proof.communicate(timeout=LONG_S)
    assert proof.returncode == 128 + signal.SIGTERM
    assert "smoke        interrupted" in output
    assert "decode       not reached" in output


def test_nonsense_is_refused_in_one_line_that_says_what_is_allowed(tmp_path: Path) -> None:
    for options, allowed in (
        (("--fault", "smoke=burn"), "crash or hang"),
        (("--box", "decode=soon"), "SECONDS"),
        (("--minutes", "0"), "0.05 to 600"),
    ):
        command = [sys.executable, "-m", "scripts.gpu_proof", "--out", str(tmp_path / "out"), *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert allowed in done.stderr
        assert not (tmp_path / "out").exists()
