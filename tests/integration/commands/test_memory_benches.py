"""The bench commands about memory as their users run them, on services of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service.live_service import ROOT
from tests.support.service.simulated_worker import INSTANT

MODEL = str(ROOT / "demo" / "model")
WITHOUT_A_MODEL = [f"--worker-arg={option}" for option in INSTANT]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qllm.client", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nobody_s_answer_suffers_under_pressure(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    # Two best-effort requests begin in 4 of the 10 blocks each, and end with 6: however slow all is, one gives way.
    load = (
        "--demand 3 --be-prompt-tokens 56 --be-max-tokens 36 --ls-rate 6 --ls-prompt-tokens 40 --ls-max-tokens 4 "
        "--prompts 1 --idle-requests 2 --warm-up 0 --seconds 2"
    )
    options = ("--worker-arg=--num-blocks=10", "--worker-arg=--dtype=float32")
    finished = bench("pressure", "--serve", MODEL, *options, *load.split(), "--json", str(file))
    assert finished.returncode == 0, finished.stderr
    (figures,) = json.loads(file.read_text())["turns"]["offload"]
    assert figures["num_compared"] > 10
    assert (figures["num_different"], figures["num_not_done"]) == (0, 0)
    assert (figures["num_leaked_blocks"], figures["num_problems"]) == (0, 0)
    assert figures["num_offloads"] > 0


@pytest.mark.timeout(900)
def test_requests_that_begin_alike_are_found_again_and_salted_ones_are_not(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    load = "--pairs 3 --rounds 1 --prefix-tokens 320 --requests 8 --clients 2 --max-tokens 4"
    finished = bench("prefix", "--serve", MODEL, *WITHOUT_A_MODEL, *load.split(), "--json", str(file))
    assert finished.returncode == 0, finished.stderr
    parts = json.loads(file.read_text())["parts"]
    assert parts["repeat"]["means"]["cold"]["hit_percent"]["value"] == 0
    assert parts["repeat"]["means"]["repeated"]["hit_percent"]["value"] > 80
    for part in ("turns", "system"):
        assert parts[part]["means"]["shared"]["hit_percent"]["value"] > 50
        assert parts[part]["means"]["apart"]["hit_percent"]["value"] == 0


@pytest.mark.timeout(900)
def test_programs_run_on_a_service_for_each_way_to_keep_their_caches(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    load = (
        "--programs 6 --learn 2 --rounds 1 --rate 20 --most-turns 4 --tool here=0.05:0.3 --be-clients 1 "
        "--first-tokens 60 --tool-tokens 20 --output-tokens 8 --be-prompt-tokens 50 --be-max-tokens 8"
    )
    finished = bench("agents", "--serve", MODEL, *WITHOUT_A_MODEL, *load.split(), "--json", str(file))
    assert finished.returncode == 0, finished.stderr
    values = json.loads(file.read_text())
    assert list(values["turns"]) == ["without", "fixed", "rule"]
    assert all(turns[0]["num_failed"] == 0 for turns in values["turns"].values())
    assert set(values["ratios"]) == {"fixed", "rule"}
    assert values["turns"]["without"][0]["num_session_hits"] == 0
    assert values["turns"]["fixed"][0]["num_session_hits"] > 0
