"""The demo as its user runs it, on a worker without a model: real processes, and what they say at the end."""

import subprocess
import sys

from tests.support.service.live_service import ROOT
from tests.support.service.simulated_worker import INSTANT

QUICK = ("--seconds", "1", "--be-clients", "3", "--ls-rate", "8")


def test_it_ends_with_what_was_gained_and_paid_and_with_the_proof_that_no_token_changed() -> None:
    worker = [f"--worker-arg={option}" for option in INSTANT]
    command = [sys.executable, "-m", "demo", *QUICK, *worker, "--", "--ls-tpot-ms", "20"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert finished.returncode == 0, finished.stderr
    assert "within 1.5x idle, 20 ms a token" in finished.stdout
    gained_and_paid, *proofs = finished.stdout.splitlines()[-3:]
    assert gained_and_paid.startswith("Latency-sensitive requests have their first token ")
    assert "; best-effort work makes " in gained_and_paid
    assert gained_and_paid.endswith(" under fcfs.")
    assert all(proof.startswith("Best-effort tokens, ") and proof.endswith(" identical") for proof in proofs)
