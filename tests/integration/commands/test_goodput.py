"""The search for goodput as its user runs it: services of its own, on a worker without a model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service.live_service import ROOT
from tests.support.service.simulated_worker import INSTANT

# Targets that no machine is too slow for.
QUICK = (
    "--seconds 0.5 --warm-up 0.1 --idle-requests 2 --drain 300 --ls-rate 20 --ls-max-tokens 4 --be-prompt-tokens 50 "
    "--be-max-tokens 8 --slo-ttft-to-idle 1e9 --slo-tpot-ms 1e9 --attainment 0.5 --max-be-clients 2"
)


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qllm.client", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)


@pytest.mark.timeout(900)
def test_services_are_searched_one_after_another_and_set_side_by_side(tmp_path: Path) -> None:
    file, picture = tmp_path / "a.json", tmp_path / "a.png"
    worker = [f"--worker-arg={option}" for option in INSTANT]
    set_ups = ("--set-up=qllm-expert", "--set-up=fcfs")
    outputs = ("--json", str(file), "--png", str(picture))
    finished = bench("goodput", "--serve", "demo/model", *set_ups, *worker, *QUICK.split(), *outputs)
    assert finished.returncode == 0, finished.stderr
    assert "to qllm-expert" in finished.stdout
    values = json.loads(file.read_text())
    assert [server["label"] for server in values["servers"]] == ["qllm-expert", "fcfs"]
    assert [server["target"]["details"]["policy"] for server in values["servers"]] == ["qllm", "fcfs"]
    for server in values["servers"]:
        assert [level["num_be_clients"] for level in server["levels"]] == [0, 1, 2]
        assert all(level["failures"] == {} for level in server["levels"])
        assert values["goodput_tokens_per_s"][server["label"]] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_the_scheduler_refuses_ends_the_search_before_it_begins() -> None:
    finished = bench("goodput", "--serve", "demo/model", "--scheduler-arg=--policy=vip", *QUICK.split())
    assert (finished.returncode, finished.stdout) == (1, "")
    assert "vip" in finished.stderr
