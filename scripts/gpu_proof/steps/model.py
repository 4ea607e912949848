"""The large model of a proof, made once in a process: steps that need it share it."""

import gc
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from client.bench.service.geometries import Geometry, write_geometry
from gpu_worker.model.loader import LoadedModel, load_model
from gpu_worker.model.weights import WeightOptions
from scripts.gpu_proof.child import Task

# Bytes of weights in bfloat16 by shape, and room for a cache and for products beside them.
_NEEDED_GIB = {Geometry.MIXTRAL_8X7B: 87 + 20, Geometry.MIXTRAL_8X1B: 15 + 6}


@dataclass(frozen=True, slots=True)
class LargeModel:
    """A model of random weights.

    Attributes:
        geometry: Its shape.
        folder: Where its configuration stands.
        loaded: It, ready to be suspended.
    """

    geometry: Geometry
    folder: Path
    loaded: LoadedModel


def device_of(task: Task) -> str:
    """Where a task's models run."""
    if task.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return task.device


def large_model(task: Task) -> LargeModel:
    """The model, which is made when it is asked for first; what an earlier step left on the device is given back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return _make(task.geometry, device_of(task), task)


@cache
def _folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="gpu-proof-model-")


_made: dict[tuple[str, str], LargeModel] = {}


def _make(name: str, device: str, task: Task) -> LargeModel:
    if (name, device) not in _made:
        geometry = _largest_that_fits(device) if name == "auto" else Geometry(name)
        folder = Path(_folder().name)
        write_geometry(geometry, folder)
        began_s = time.monotonic()
        loaded = load_model(str(folder), device=device, options=WeightOptions(source="dummy"))
        _made[name, device] = LargeModel(geometry, folder, loaded)
        seconds = time.monotonic() - began_s
        task.report.figure("model", geometry=str(geometry), dtype=loaded.facts.dtype, device=device, made_in_s=seconds)
    return _made[name, device]


def _largest_that_fits(device: str) -> Geometry:
    if device == "cpu":
        return Geometry.TINY
    free_gib = torch.cuda.mem_get_info()[0] / 2**30
    return next((geometry for geometry, gib in _NEEDED_GIB.items() if free_gib >= gib), Geometry.TINY)
