"""On a CPU `--dtype auto` is float32 where it fits and is clearly faster than a checkpoint's half precision."""

import json
import logging
from pathlib import Path

import pytest
import torch

from gpu_worker.model import compute_type
from gpu_worker.model.compute_type import choose_type
from gpu_worker.model.loader import load_model
from gpu_worker.model.weights import DType, WeightOptions, stored_type
from tests.support.models.families import random_model
from tests.support.worker.worker_driver import Driver

HALF = [torch.bfloat16, torch.float16]
Times = tuple[list[float], list[float]]


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[Times]:
    """What the trials say, one after another: seconds in half precision and in float32 for each number of rows."""
    said: list[Times] = []
    monkeypatch.setattr(compute_type, "_times_s", lambda *_: said.pop(0))
    return said


def _say(trials: list[Times], *ratios: tuple[float, float, float]) -> None:
    trials += [([0.001 * one for one in ratio], [0.001] * 3) for ratio in ratios]


def _chosen(own: torch.dtype | None, options: WeightOptions | None = None, device: str = "cpu") -> DType:
    model = random_model("mixtral", dtype=own or torch.float32)
    return choose_type(model, own, options or WeightOptions(), device, is_quantized=False).dtype


@pytest.mark.parametrize("own", HALF)
def test_float32_is_taken_where_it_is_clearly_faster_on_the_whole(trials: list[Times], own: torch.dtype) -> None:
    _say(trials, (0.5, 3.0, 17.0), (0.6, 2.0, 9.0))
    assert _chosen(own) == "float32"


@pytest.mark.parametrize("second", [(1.0, 1.0, 1.0), (1.0, 1.1, 1.15), (0.5, 0.8, 0.4)])
def test_the_checkpoints_type_is_kept_unless_every_trial_speaks_clearly_against_it(
    trials: list[Times], second: tuple[float, float, float]
) -> None:
    _say(trials, (2.0, 3.0, 17.0), second)
    assert _chosen(torch.bfloat16) == "auto"


@pytest.mark.parametrize(
    ("own", "options", "device"),
    [
        (torch.float32, WeightOptions(), "cpu"),
        (None, WeightOptions(), "cpu"),
        (torch.bfloat16, WeightOptions("bfloat16"), "cpu"),
        (torch.bfloat16, WeightOptions("float32"), "cpu"),
        (torch.bfloat16, WeightOptions(is_sliced=True), "cpu"),
        (torch.bfloat16, WeightOptions(), "cuda"),
    ],
)
@pytest.mark.usefixtures("trials")  # which would raise
def test_what_leaves_no_choice_is_not_measured(own: torch.dtype | None, options: WeightOptions, device: str) -> None:
    assert _chosen(own, options, device) == options.dtype


def test_float32_that_does_not_fit_is_not_taken_and_the_log_says_so(
    trials: list[Times], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = random_model("mixtral", dtype=torch.bfloat16)
    num_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    for free_bytes, chosen in ((num_bytes * 2, "float32"), (num_bytes, "auto")):
        _say(trials, (1.0, 3.0, 17.0), (1.0, 3.0, 17.0))
        monkeypatch.setattr(compute_type, "free_bytes_of_memory", lambda free_bytes=free_bytes: free_bytes)
        assert choose_type(model, torch.bfloat16, WeightOptions(), "cpu", is_quantized=False).dtype == chosen
    assert "dtype=bfloat16 from=memory" in caplog.text


def test_the_log_says_type_reason_and_figures(trials: list[Times], caplog: pytest.LogCaptureFixture) -> None:
    _say(trials, (1.0, 8.0, 1.0), (1.0, 8.0, 1.0))
    with caplog.at_level(logging.INFO):
        _chosen(torch.float16)
        _chosen(torch.float32)
        _chosen(torch.bfloat16, WeightOptions("bfloat16"))
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "dtype=float32 from=measurement checkpoint=float16 float16/float32=2.00 "
        "us_by_rows=1:1000/1000 8:8000/1000 64:1000/1000",
        "dtype=float32 from=checkpoint",
        "dtype=bfloat16 from=--dtype checkpoint=bfloat16",
    ]


@pytest.mark.parametrize("own", HALF)
@pytest.mark.parametrize("is_named", [True, False])
def test_a_checkpoint_runs_in_the_type_that_was_chosen(
    trials: list[Times], tmp_path: Path, own: torch.dtype, is_named: bool
) -> None:
    random_model("mixtral", dtype=own).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    assert stored_type(str(tmp_path)) is own
    if not is_named:
        file.write_text(json.dumps({key: value for key, value in config.items() if key != "dtype"}))
    tokens = []
    for options in (WeightOptions(), WeightOptions("float32")):
        _say(trials, (1.0, 3.0, 17.0), (1.0, 3.0, 17.0))
        loaded = load_model(str(tmp_path), options=options)
        assert loaded.facts.dtype == "float32"
        driver = Driver(loaded)
        story = driver.add([5, 6, 7, 8], 6)
        driver.finish(story)
        tokens.append(story.token_ids)
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])  # the second has its experts transposed
def test_products_of_the_models_own_sizes_are_timed_in_both_types(family: str) -> None:
    model = random_model(family, dtype=torch.bfloat16)
    own_s, wide_s = compute_type._times_s(model, torch.bfloat16, WeightOptions())
    assert len(own_s) == len(wide_s) == 3
    assert all(0 < time_s < 60 for time_s in (*own_s, *wide_s))
    (out_features, in_features), number = compute_type._commonest_shape(model)
    assert out_features * in_features * number <= sum(parameter.numel() for parameter in model.parameters())


def test_free_memory_is_what_machine_and_group_leave(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4 kB\n")
    monkeypatch.setattr(compute_type, "_MEMORY", tmp_path / "meminfo")
    for of_group, free in ((None, 4096), (9999, 4096), (100, 100)):
        monkeypatch.setattr(compute_type, "free_memory_bytes", lambda of_group=of_group: of_group)
        assert compute_type.free_bytes_of_memory() == free
