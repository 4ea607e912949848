"""A damaged checkpoint is refused in one line that names the file or the key, before any weight is read if possible."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gpu_worker.checkpoint.files import check_checkpoint, looks_like_path
from gpu_worker.errors import ModelRefused
from gpu_worker.model.loader import load_model
from gpu_worker.model.weights import WeightOptions, _saved_tensors
from tests.support.models.families import random_model

INDEX = "model.safetensors.index.json"
SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole")
    random_model("mixtral").save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_text("{}")
    return directory


@pytest.fixture
def directory(whole: Path, tmp_path: Path) -> Path:
    """A directory whose files may be replaced, one by one."""
    for file in whole.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


def replace(file: Path, content: bytes) -> None:
    file.unlink()
    file.write_bytes(content)


def change(file: Path, **settings: Any) -> None:
    replace(file, json.dumps(json.loads(file.read_bytes()) | settings).encode())


def change_weights(directory: Path, change_one: Callable[[torch.Tensor], torch.Tensor]) -> str:
    """Changes a weight of the first expert; returns its name."""
    file = directory / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in sorted(weights) if "experts.0" in name)
    weights[name] = change_one(weights[name]).contiguous()
    file.unlink()
    save_file(weights, file, metadata={"format": "pt"})
    return name


def refusal(directory: Path) -> str:
    with pytest.raises(ModelRefused) as caught:
        check_checkpoint(str(directory), needs_weights=True)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_whole_checkpoint_is_let_through(directory: Path) -> None:
    check_checkpoint(str(directory), needs_weights=True)


@pytest.mark.parametrize("num_bytes", [0, 5, 1000, -1])
def test_a_safetensors_file_that_was_cut_off_is_refused_by_name(directory: Path, num_bytes: int) -> None:
    file = directory / "model.safetensors"
    replace(file, file.read_bytes()[:num_bytes])
    assert f"{file} is damaged" in refusal(directory)


@pytest.mark.parametrize(
    "content", [b"<html>" * 100, b"version https://git-lfs.github.com/spec/v1\n", b"\x02" + b"\0" * 99]
)
def test_what_is_no_safetensors_file_is_refused_by_name(directory: Path, content: bytes) -> None:
    replace(directory / "model.safetensors", content)
    assert f"{directory / 'model.safetensors'} is damaged" in refusal(directory)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"a": ' * 100_000])
def test_a_file_that_is_no_json_object_is_refused_by_name(directory: Path, name: str, content: bytes) -> None:
    replace(directory / name, content)
    assert str(directory / name) in refusal(directory)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "generation_config.json"])
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused_by_name(directory: Path, name: str, make: Callable[[Path], None]) -> None:
    (directory / name).unlink()
    make(directory / name)
    assert str(directory / name) in refusal(directory)


def test_a_link_that_leads_nowhere_is_refused_by_name(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").symlink_to("/nonexistent/blob")
    assert refusal(directory) == f"{directory / 'model.safetensors'} can't be read: No such file or directory"


@pytest.mark.parametrize("text", ["Infinity", "-Infinity", "NaN", "1e999", '{"__float__": "Infinity"}'])
def test_a_number_that_is_none_is_refused_by_its_key(directory: Path, text: str) -> None:
    replace(
        directory / "config.json", b'{"model_type": "mixtral", "rope_parameters": {"rope_theta": %s}}' % text.encode()
    )
    assert "config.json: rope_parameters.rope_theta: got" in refusal(directory)


def test_an_upper_bound_may_be_infinite(directory: Path) -> None:
    change(directory / "config.json", time_step_limit=[0.0, float("inf")])
    check_checkpoint(str(directory), needs_weights=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_position_embeddings", 0),
        ("max_position_embeddings", -1),
        ("num_hidden_layers", 10**9),
        ("hidden_size", -5),
        ("hidden_size", 10**30),
        ("num_experts_per_tok", 0),
        ("num_experts_per_tok", 9),
        ("vocab_size", 0),
    ],
)
def test_an_absurd_number_is_refused_by_its_key(directory: Path, key: str, value: int) -> None:
    change(directory / "config.json", **{key: value})
    assert f"config.json: {key}: got {value}, allowed is" in refusal(directory)


@pytest.mark.parametrize("value", [None, 5])
def test_a_configuration_without_a_family_is_refused(directory: Path, value: object) -> None:
    change(directory / "config.json", model_type=value)
    assert "config.json can't be served: model_type: got" in refusal(directory)


def test_shards_must_be_there_and_hold_what_the_index_says(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / SHARD)
    (directory / INDEX).write_text(json.dumps({"weight_map": {"model.nothing.weight": SHARD}}))
    assert refusal(directory).startswith(f"{directory / SHARD} lacks 1 tensors")
    (directory / SHARD).unlink()
    assert refusal(directory) == f"{directory / SHARD} is missing; {INDEX} names it"
    for content in ("{", "{}", '{"weight_map": 5}', '{"weight_map": {"a": 5}}'):
        (directory / INDEX).write_text(content)
        assert str(directory / INDEX) in refusal(directory)


def test_files_that_are_not_read_are_not_looked_at(directory: Path) -> None:
    (directory / INDEX).write_text("left over from before")
    (directory / "consolidated.safetensors").write_bytes(b"in another layout")
    check_checkpoint(str(directory), needs_weights=True)


@pytest.mark.parametrize("quantization", ["none", "bnb-4bit"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_single_weight_that_is_no_number_is_refused_by_name(directory: Path, value: float, quantization: Any) -> None:
    def spoil(weight: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(weight.numel()).view_as(weight) == 7, value, weight)

    change_weights(directory, spoil)
    (directory / "tokenizer.json").unlink()
    (directory / "tokenizer_config.json").unlink()
    with pytest.raises(ModelRefused, match=r"is damaged: model\.layers\.0\..*experts.* holds NaN or infinite values"):
        load_model(str(directory), options=WeightOptions(quantization=quantization))


def test_what_a_checkpoint_holds_beside_parameters_is_looked_at_too() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.register_buffer("correction", torch.zeros(1))
    model.register_buffer("made_anew", torch.zeros(1), persistent=False)
    assert [name for name, _ in _saved_tensors(model)] == ["weight", "correction"]


def test_weights_of_another_shape_are_refused(directory: Path) -> None:
    change(directory / "config.json", intermediate_size=8)
    (directory / "tokenizer.json").unlink()
    (directory / "tokenizer_config.json").unlink()
    with pytest.raises(ModelRefused, match=r"of shape .*, and its configuration says"):
        load_model(str(directory))


def test_a_path_is_told_from_a_hub_id() -> None:
    assert all(map(looks_like_path, ("/nope", "./nope", "../nope", "~/nope", "a/b/c", ".")))
    assert not any(map(looks_like_path, ("org/name", "name", "demo/model")))
