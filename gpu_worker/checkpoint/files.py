"""Looks at a checkpoint's files before anything heavy is imported, and refuses what is damaged, naming the file.

Reads JSON and the headers of safetensors files, never a weight, and takes neither torch nor transformers: a truncated
download is refused within a second. What a model is, and whether it can be served, is decided where it is loaded.
"""

import json
import math
import stat
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gpu_worker.errors import ModelRefused, one_line

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_JSON_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
)
_MAY_BE_INFINITE = frozenset({"time_step_limit"})  # an upper bound that several state-space families save as none
# What is built of these before any weight is read takes memory and time in proportion. As the scheduler's own limits.
_LIMITS = {
    "num_hidden_layers": (1, 10_000),
    "num_local_experts": (0, 100_000),  # 0: no layer has any
    "num_experts": (0, 100_000),
    "n_routed_experts": (0, 100_000),
    "vocab_size": (1, 1 << 28),
    "hidden_size": (1, 1 << 20),
    "max_position_embeddings": (2, 1 << 31),
    "num_experts_per_tok": (0, 100_000),
}


def looks_like_path(source: str) -> bool:
    """Whether `source` means a place in the file system rather than `name` or `org/name` on the hub."""
    return source.startswith(("/", ".", "~")) or source.count("/") > 1


def check_checkpoint(source: str, *, needs_weights: bool) -> None:
    """Raises ModelRefused for a directory whose files can't be a whole checkpoint; a hub id is left to the hub."""
    directory = Path(source)
    if not directory.is_dir():
        if directory.exists() or looks_like_path(source):
            raise ModelRefused(f"{source} is no directory")
        return
    if not _exists(directory / "config.json"):
        raise ModelRefused(f"{source} has no config.json")
    for name in _JSON_FILES:
        if _exists(directory / name):
            _check_object(directory / name)
    _check_config(directory / "config.json")
    if needs_weights:
        _check_weights(directory)


def read_json(file: Path) -> dict[str, Any]:
    """Returns the object in a JSON file; raises ModelRefused if the file can't be read or holds anything else."""
    _check_regular(file)
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise ModelRefused(f"{file} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelRefused(f"{file} can't be read: it is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelRefused(f"{file}: got {type(content).__name__}, allowed is an object")
    return content


def _exists(file: Path) -> bool:
    try:
        return file.exists()
    except OSError as error:
        raise ModelRefused(f"{file} can't be read: {error.strerror}") from error


def _check_object(file: Path) -> None:
    """Raises ModelRefused unless the file is a JSON object without numbers that are none."""
    content = read_json(file)
    if file.name in ("config.json", "generation_config.json"):
        for key, value in _numbers(content):
            if not math.isfinite(value) and key.rpartition(".")[2].partition("[")[0] not in _MAY_BE_INFINITE:
                raise ModelRefused(f"{file}: {key}: got {value}, allowed is a finite number")


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """All numbers in a JSON value with the keys that lead to them, such as rope_parameters.rope_theta or limits[1]."""
    # transformers writes so what JSON has no word for.
    if isinstance(value, dict) and isinstance(value.get("__float__"), str):
        yield key, float(value["__float__"])
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _numbers(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _numbers(inner, f"{key}[{index}]")
    elif isinstance(value, float):
        yield key, value


def _check_config(file: Path) -> None:
    config = read_json(file)
    if not isinstance(config.get("model_type"), str):
        given = f"got {config['model_type']!r}" if "model_type" in config else "missing"
        raise ModelRefused(
            f"{file} can't be served: model_type: {given}, allowed is the name of a family, such as mixtral"
        )
    for part in (config, *(value for name, value in config.items() if name.endswith("text_config"))):
        for key, (low, high) in _LIMITS.items():
            value = part.get(key) if isinstance(part, dict) else None
            if isinstance(value, (int, float)) and not low <= value <= high:
                raise ModelRefused(f"{file}: {key}: got {value}, allowed is {low} to {high}")
        _check_experts(file, part)


def _check_experts(file: Path, config: Any) -> None:
    """Raises ModelRefused where tokens choose no expert, or more than there are."""
    if not isinstance(config, dict):
        return
    chosen = config.get("num_experts_per_tok")
    for key in ("num_local_experts", "num_experts", "n_routed_experts"):
        number = config.get(key)
        if isinstance(number, int) and isinstance(chosen, int) and number and not 1 <= chosen <= number:
            raise ModelRefused(f"{file}: num_experts_per_tok: got {chosen}, allowed is 1 to {number} ({key})")


def _check_weights(directory: Path) -> None:
    if _exists(directory / _WEIGHTS) or (directory / _WEIGHTS).is_symlink():  # also a link that leads nowhere
        _read_names(directory / _WEIGHTS)  # this one is read, whatever an index says
    elif _exists(directory / _INDEX):
        _check_index(directory / _INDEX)
    elif not any(directory.glob("*.safetensors")):
        others = sorted(
            path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in directory.glob(pattern)
        )
        held = f"only {', '.join(others[:3])}" if others else "no weights"
        raise ModelRefused(
            f"{directory} holds {held}; weights must be in safetensors files (save_pretrained writes them)"
        )


def _check_index(index: Path) -> None:
    """Raises ModelRefused unless each shard that an index names is there and has the tensors the index expects."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ModelRefused(f"{index}: weight_map: allowed is an object of the names of files")
    names_by_shard: dict[str, list[str]] = {}
    for name, shard in places.items():
        names_by_shard.setdefault(shard, []).append(name)
    for shard, names in sorted(names_by_shard.items()):
        file = index.parent / shard
        if not _exists(file):
            raise ModelRefused(f"{file} is missing; {index.name} names it")
        held = _read_names(file)
        lacking = sorted(name for name in names if name not in held)
        if lacking:
            raise ModelRefused(
                f"{file} lacks {len(lacking)} tensors that {index.name} expects in it, such as {lacking[0]}"
            )


def _read_names(file: Path) -> Set[str]:
    """Returns the names of the tensors in a safetensors file; raises ModelRefused unless it is whole."""
    _check_regular(file)
    try:
        with safe_open(file, framework="numpy") as opened:
            return frozenset(opened.keys())
    except OSError as error:
        raise ModelRefused(f"{file} can't be read: {error}") from error
    except SafetensorError as error:
        size = f"{file.stat().st_size} bytes"
        raise ModelRefused(f"{file} is damaged ({size}; a download that ended early?): {one_line(error)}") from error


def _check_regular(file: Path) -> None:
    """Raises ModelRefused for what can't be read like a file: a directory, a pipe, a link that leads nowhere."""
    try:
        is_file = stat.S_ISREG(file.stat().st_mode)
    except OSError as error:
        raise ModelRefused(f"{file} can't be read: {error.strerror}") from error
    if not is_file:
        raise ModelRefused(f"{file} can't be read: it is no file")
