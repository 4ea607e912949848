"""On a CPU `--dtype auto` is float32 where it fits and is clearly faster than a checkpoint's half precision."""

import json
import logging
import subprocess
import sys
from math import inf
from pathlib import Path

import pytest
import torch

from gpu_worker.model import compute_type
from gpu_worker.model.compute_type import Room, choose_type, judge, slowness
from gpu_worker.model.loader import load_model
from gpu_worker.model.type_trials import ROWS, Trial
from gpu_worker.model.weights import DType, WeightOptions, stored_type
from tests.support.channel.control_channel import python_path
from tests.support.models.families import random_model
from tests.support.worker.worker_driver import Driver

HALF = [torch.bfloat16, torch.float16]
ROOM = Room(float32_bytes=80, free_bytes=100)


def trial(slowdown: float) -> Trial:
    """One in which half precision takes so many times as long as float32, with every number of rows."""
    return Trial((slowdown * 0.001,) * len(ROWS), (0.001,) * len(ROWS))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How many times as long half precision takes in the next trials, two at a time; more than these are refused."""
    slowdowns: list[float] = []
    monkeypatch.setattr(compute_type, "time_types", lambda *_: tuple(trial(slowdowns.pop(0)) for _ in range(2)))
    return slowdowns


def chosen(own: torch.dtype | None, options: WeightOptions | None = None, device: str = "cpu") -> DType:
    model = random_model("mixtral", dtype=own or torch.float32)
    return choose_type(model, own, options or WeightOptions(), device, is_quantized=False).options.dtype


@pytest.mark.parametrize(
    ("slowdowns", "takes_float32"),
    [
        ((1.21, 1.21), True),
        ((inf, inf), True),  # a CPU without such products
        ((1.19, 1.21), False),
        ((3.0, 1.19), False),  # a neighbour held a core in one of the trials
        ((1.0, 1.0), False),
        ((0.5, 0.6), False),
    ],
)
def test_float32_is_taken_where_every_trial_finds_it_a_fifth_faster(
    slowdowns: tuple[float, float], takes_float32: bool
) -> None:
    verdict = judge("bfloat16", [trial(slowdown) for slowdown in slowdowns], ROOM)
    assert verdict.takes_float32 is takes_float32
    assert verdict.reason == f"measurement: bfloat16/float32={min(slowdowns):.2f}"


@pytest.mark.parametrize(
    ("room", "takes_float32"),
    [
        (Room(80, 100), True),
        (Room(81, 100), False),
        (Room(80, 150, cache_bytes=50), True),
        (Room(80, 149, cache_bytes=50), False),
        (Room(1, 100, cache_bytes=100), False),
    ],
)
def test_float32_may_take_four_fifths_of_the_memory_that_caches_leave(room: Room, takes_float32: bool) -> None:
    verdict = judge("bfloat16", [trial(3.0)], room)
    assert verdict.takes_float32 is takes_float32
    assert verdict.reason.startswith("measurement: " if takes_float32 else "memory: bfloat16/float32=3.00, but float32")


@pytest.mark.parametrize(
    ("asked", "slowdowns", "said"),
    [
        ("bfloat16", (1.51, 1.6), "--dtype bfloat16: float32 would be 1.5 times as fast here"),
        ("bfloat16", (inf, inf), "--dtype bfloat16: float32 would be inf times as fast here"),
        ("bfloat16", (1.49, 1.6), ""),
        ("bfloat16", (0.5, 0.5), ""),
        ("float32", (0.66, 0.5), "--dtype float32: bfloat16, the checkpoint's type, would be 2.0 times as fast here"),
        ("float32", (0.67, 0.5), ""),
        ("float32", (3.0, 3.0), ""),
        ("float32", (), ""),
    ],
)
def test_a_type_that_was_asked_for_is_called_slow_where_another_is_half_as_fast_again(
    asked: DType, slowdowns: tuple[float, ...], said: str
) -> None:
    trials = [trial(slowdown) for slowdown in slowdowns]
    assert slowness(asked, "bfloat16", trials, ROOM) == said
    if asked == "bfloat16":  # what does not fit is no advice
        assert slowness(asked, "bfloat16", trials, Room(81, 100)) == ""


def test_a_type_that_was_asked_for_is_kept_and_the_log_warns(
    measured: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    measured += [3.0, 3.0]
    assert chosen(torch.float32, WeightOptions("bfloat16")) == "bfloat16"
    measured += [0.5, 0.5]
    assert chosen(torch.bfloat16, WeightOptions("float32")) == "float32"
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "--dtype bfloat16: float32 would be 3.0 times as fast here",
        "--dtype float32: bfloat16, the checkpoint's type, would be 2.0 times as fast here",
    ]


@pytest.mark.parametrize(
    ("own", "options", "device", "is_quantized"),
    [
        (torch.float32, WeightOptions(), "cpu", False),
        (torch.float32, WeightOptions("float32"), "cpu", False),
        (torch.bfloat16, WeightOptions("float32", quantization="int8"), "cpu", False),
        (None, WeightOptions(), "cpu", False),
        (torch.bfloat16, WeightOptions(), "cuda", False),
        (torch.bfloat16, WeightOptions("float32"), "cuda", False),
        (torch.float16, WeightOptions(), "cpu", True),
    ],
)
@pytest.mark.usefixtures("measured")  # which would raise
def test_what_leaves_no_choice_is_not_measured(
    own: torch.dtype | None, options: WeightOptions, device: str, is_quantized: bool
) -> None:
    model = random_model("mixtral", dtype=own or torch.float32)
    kept = choose_type(model, own, options, device, is_quantized=is_quantized)
    assert kept.options == options
    assert kept.reason == ("checkpoint" if options.dtype == "auto" else "--dtype")


class Rank:
    """One of several processes, which hears what rank 0 says."""

    def __init__(self, rank: int, said: list[bool]) -> None:
        self.rank = rank
        self.said = said

    def share_flag(self, flag: bool = False) -> bool:
        if self.rank == 0:
            self.said.append(flag)
        return self.said[0]


@pytest.mark.parametrize("slowdown", [3.0, 0.5])
def test_all_ranks_take_the_type_that_the_first_has_measured(measured: list[float], slowdown: float) -> None:
    measured += [slowdown] * 2  # the others measure nothing
    said: list[bool] = []
    model, options = random_model("mixtral", dtype=torch.bfloat16), WeightOptions(is_sliced=True)
    types = [
        choose_type(model, torch.bfloat16, options, "cpu", is_quantized=False, ranks=Rank(rank, said)).options.dtype
        for rank in (0, 1, 2)
    ]
    assert types == ["float32" if slowdown > 1 else "auto"] * 3


def test_the_memory_that_there_is_decides(monkeypatch: pytest.MonkeyPatch, measured: list[float]) -> None:
    model = random_model("mixtral", dtype=torch.bfloat16)
    num_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    for free_bytes, taken in ((num_bytes * 2, "float32"), (num_bytes, "auto")):
        measured += [3.0, 3.0]
        monkeypatch.setattr(compute_type, "free_bytes_of_host", lambda free_bytes=free_bytes: free_bytes)
        assert choose_type(model, torch.bfloat16, WeightOptions(), "cpu", is_quantized=False).options.dtype == taken


def test_the_log_says_type_reason_and_figures_in_one_line(
    measured: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    measured += [2.0, 3.0]
    with caplog.at_level(logging.INFO):
        chosen(torch.float16)
        chosen(torch.float32)
    assert [record.getMessage() for record in caplog.records] == [
        "dtype=float32 checkpoint=float16 from=measurement: float16/float32=2.00 "
        "us_by_rows=1:2000/1000 4:2000/1000 16:2000/1000 64:2000/1000 256:2000/1000",
        "dtype=float32 checkpoint=float32 from=checkpoint",
    ]


@pytest.mark.parametrize("own", HALF)
@pytest.mark.parametrize("is_named", [True, False])
def test_a_checkpoint_runs_in_the_type_that_was_chosen_and_says_why(
    measured: list[float], tmp_path: Path, own: torch.dtype, is_named: bool
) -> None:
    random_model("mixtral", dtype=own).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    assert stored_type(str(tmp_path)) is own
    if not is_named:
        file.write_text(json.dumps({key: value for key, value in config.items() if key != "dtype"}))
    name = str(own).removeprefix("torch.")
    tokens = []
    for options, reason in (
        (WeightOptions(), f"measurement: {name}/float32=3.00"),
        (WeightOptions("float32"), "--dtype"),
    ):
        measured += [3.0, 3.0]
        loaded = load_model(str(tmp_path), options=options)
        facts = loaded.facts
        assert (facts.dtype, facts.checkpoint_dtype, facts.dtype_reason) == ("float32", name, reason)
        driver = Driver(loaded)
        story = driver.add([5, 6, 7, 8], 6)
        driver.finish(story)
        tokens.append(story.token_ids)
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("own", HALF)
def test_a_checkpoint_is_loaded_in_what_this_cpu_is_found_to_be_fast_at(tmp_path: Path, own: torch.dtype) -> None:
    random_model("mixtral", dtype=own).save_pretrained(tmp_path)
    facts = load_model(str(tmp_path)).facts  # which compares it with the model as it is
    assert facts.dtype in ("float32", facts.checkpoint_dtype)
    assert facts.dtype_reason.startswith("measurement: ")


WITHOUT_BFLOAT16 = """
import logging, sys, torch
from gpu_worker.machine.onednn import can_pack
from gpu_worker.model.loader import load_model
from gpu_worker.model.weights import WeightOptions
logging.getLogger("gpu_worker.model.compute_type").addHandler(logging.StreamHandler(sys.stdout))
torch.set_num_threads(1)
assert not can_pack(torch.bfloat16, torch.device("cpu"))  # "could not create a primitive descriptor"
for dtype in ("auto", "bfloat16"):
    facts = load_model(sys.argv[1], options=WeightOptions(dtype)).facts
    print(facts.dtype, facts.checkpoint_dtype, facts.dtype_reason.partition(":")[0])
"""


def test_a_cpu_whose_products_in_bfloat16_cannot_be_created_computes_in_float32_unless_told(tmp_path: Path) -> None:
    """On oneDNN as it is on a CPU with AVX2 alone."""
    random_model("mixtral", dtype=torch.bfloat16).save_pretrained(tmp_path)
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WITHOUT_BFLOAT16, str(tmp_path)]
    environment = python_path() | limits
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    first, warning, last = ended.stdout.splitlines()
    assert first == "float32 bfloat16 measurement"
    assert warning.startswith("--dtype bfloat16: float32 would be ")
    assert last == "bfloat16 bfloat16 --dtype"
