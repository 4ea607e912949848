"""Processes that hold one model together do all alike, whatever each would have chosen by itself."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gpu_worker.contract.commands import Command, DropSequence, OffloadSequence
from gpu_worker.errors import CacheLost
from gpu_worker.execution.ranks import LeadingExecutor, Ranks
from tests.support.channel.control_channel import python_path
from tests.support.models.families import random_model

# The second process has no products in bfloat16, so that by itself it would compute in float32.
RANK = """
import os, sys
if os.environ["RANK"] == "1":
    os.environ["ONEDNN_MAX_CPU_ISA"], os.environ["ATEN_CPU_CAPABILITY"] = "AVX2", "avx2"
import torch
from gpu_worker.execution.ranks import Ranks
from gpu_worker.model.loader import load_model
from gpu_worker.model.weights import WeightOptions
torch.set_num_threads(1)
ranks = Ranks()
facts = load_model(sys.argv[1], options=WeightOptions(is_sliced=True), ranks=ranks).facts
sys.stdout.write(f"rank {ranks.rank}: {facts.dtype}, {facts.dtype_reason.partition(':')[0]}\\n")
"""


def test_all_ranks_compute_in_the_type_that_the_first_has_measured(tmp_path: Path) -> None:
    random_model("mixtral", dtype=torch.bfloat16).save_pretrained(tmp_path / "model")
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = subprocess.run(
        [*launcher, str(script), str(tmp_path / "model")],
        env=python_path() | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    first, second = sorted(line for line in ended.stdout.splitlines() if line.startswith("rank "))
    taken = first.removeprefix("rank 0: ").removesuffix(", measurement")
    assert taken in ("float32", "bfloat16")
    assert second == f"rank 1: {taken}, rank 0"


class OtherRanks(Ranks):
    """Ranks of which another one has lost a cache, or none has."""

    def __init__(self, *, have_lost: bool) -> None:
        self._have_lost = have_lost

    def share(self, kind: int = 0, frame: bytes = b"") -> tuple[int, bytes]:
        return kind, frame

    def least(self, number: int) -> int:
        return min(number, int(not self._have_lost))


class Noting:
    """Notes the commands that it is given."""

    def __init__(self) -> None:
        self.applied: list[Command] = []

    def apply(self, command: Command) -> None:
        self.applied.append(command)


def test_a_cache_of_which_another_rank_has_lost_its_slice_is_lost_here_too() -> None:
    offload = OffloadSequence(7)
    fine, lost = Noting(), Noting()
    LeadingExecutor(fine, OtherRanks(have_lost=False)).apply(offload)  # type: ignore[arg-type]
    with pytest.raises(CacheLost, match="sequence 7 is lost to another rank"):
        LeadingExecutor(lost, OtherRanks(have_lost=True)).apply(offload)  # type: ignore[arg-type]
    assert (fine.applied, lost.applied) == ([offload], [offload, DropSequence(7)])
