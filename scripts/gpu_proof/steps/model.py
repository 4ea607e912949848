"""The large model of a proof, made once in a process: steps that need it share it."""

import gc
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from qllm.client.bench.service.geometries import Geometry, write_geometry

from gpu_worker.errors import ModelRefused
from gpu_worker.model.loader import LoadedModel, load_model
from gpu_worker.model.weights import WeightOptions
from scripts.gpu_proof.child import StepFailed, Task

# GiB of weights in bfloat16 by shape, and room for caches and products beside them; the largest first.
_NEEDED_GIB = {Geometry.MIXTRAL_8X7B: 87 + 20, Geometry.MIXTRAL_8X1B: 15 + 8, Geometry.TINY: 0}


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
    """Where a task's models run.

    Raises:
        StepFailed: There is no CUDA device, and one is asked for.
    """
    if task.device != "cpu" and torch.cuda.is_available():
        return "cuda"
    if task.device == "cuda":
        raise StepFailed(f"torch {torch.__version__} sees no CUDA device (it is built for CUDA {torch.version.cuda})")
    return "cpu"


def large_model(task: Task) -> LargeModel:
    """The model, which is made when it is asked for first; what an earlier step left on the device is given back."""
    device = device_of(task)
    give_back(device)
    if not _made:
        _made.append(_make(task, device))
    return _made[0]


def give_back(device: str) -> None:
    """Gives memory that nothing refers to any more back to the device."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


_made: list[LargeModel] = []
_failed: set[Geometry] = set()
_folders: list[tempfile.TemporaryDirectory[str]] = []  # kept as long as the process


def _make(task: Task, device: str) -> LargeModel:
    """Makes the shape that is asked for, or the largest that can be made."""
    geometries = _fitting(device) if task.geometry == "auto" else [Geometry(task.geometry)]
    failures: list[str] = []
    for geometry in geometries:
        if geometry in _failed:
            continue
        began_s = time.monotonic()
        try:
            model = _make_one(geometry, device)
        except (RuntimeError, MemoryError, ModelRefused) as error:  # torch.OutOfMemoryError is a RuntimeError
            failures.append(f"{geometry} cannot be made: {type(error).__name__}: {error}"[:300])
            _failed.add(geometry)  # the next step need not try again what took long to fail
        else:
            facts, seconds = model.loaded.facts, time.monotonic() - began_s
            task.report.figure("model", geometry=str(geometry), dtype=facts.dtype, device=device, made_in_s=seconds)
            return model
        task.report.note(failures[-1])
        give_back(device)  # not before the error is gone, whose traceback holds the model
    raise StepFailed("\n".join(failures) or "no shape of a model can be made on this device")


def _make_one(geometry: Geometry, device: str) -> LargeModel:
    directory = tempfile.TemporaryDirectory(prefix="gpu-proof-model-")
    _folders.append(directory)
    folder = Path(directory.name)
    write_geometry(geometry, folder)
    return LargeModel(geometry, folder, load_model(str(folder), device=device, options=WeightOptions(source="dummy")))


def _fitting(device: str) -> list[Geometry]:
    """Shapes that should fit, the largest first."""
    if device == "cpu":
        return [Geometry.TINY]
    free_gib = torch.cuda.mem_get_info()[0] / 2**30
    return [geometry for geometry, gib in _NEEDED_GIB.items() if free_gib >= gib]
