"""How fast tokens are decoded, eager and replayed from CUDA graphs, beside what the memory allows; and what stops cost.

A share of bandwidth is the time that reading the weights and caches would take, by the time that was taken. Where a
layer runs whole, on a device, it counts all experts that so many tokens can choose, so that it is an upper bound.
"""

from collections.abc import Sequence

import torch

from gpu_worker.model.loader import LoadedModel
from scripts.engine.bandwidth import read_bandwidth
from scripts.engine.speed import Bench
from scripts.gpu_proof.child import StepFailed, Task
from scripts.gpu_proof.steps.model import device_of, give_back, large_model

_BATCHES = (1, 8, 32)
_CONTEXT = 512
_CHUNK = 2048
_PREFILL = 2048
_MOST_ROUNDS = 40
_WARM_UPS = 2


def run(task: Task) -> None:
    """Measures both ways, which share the time; one that fails does not keep the other from being measured."""
    loaded = large_model(task).loaded
    device = device_of(task)
    ways = {"eager": (), "captured": _BATCHES} if device == "cuda" else {"eager": ()}
    failures = []
    with torch.inference_mode():
        bandwidth = read_bandwidth(device)
        task.report.figure("memory", read_gb_per_s=bandwidth / 1e9)
        for number, (way, recorded) in enumerate(ways.items()):
            try:
                _measure(task, loaded, way, recorded, bandwidth, task.left_s() / (len(ways) - number))
            except Exception as error:
                failures.append(f"{way}: {type(error).__name__}: {error}")
            give_back(device)
    if device != "cuda":
        task.report.note("CUDA graphs need a CUDA device: decodes ran eager only")
    if failures:
        raise StepFailed("\n".join(failures))


def _measure(
    task: Task, loaded: LoadedModel, way: str, recorded: Sequence[int], bandwidth: float, seconds: float
) -> None:
    """Measures one way, and reports each batch size as it is done."""
    ends_left_s = task.left_s() - seconds
    most = 1 if task.is_rehearsal else _MOST_ROUNDS
    context, prefill = (64, 128) if task.is_rehearsal else (_CONTEXT, _PREFILL)
    num_steps = 2 * (most + _WARM_UPS) * len(_BATCHES)
    bench = Bench(loaded, max(_BATCHES), context, _CHUNK, num_steps, prefill, recorded)
    if missing := set(recorded) - set(bench.recorded):
        task.report.note(f"not recorded for batches of {sorted(missing)}: those ran eager; log.txt says why")
    for number, batch in enumerate(_BATCHES):
        share_s = (task.left_s() - ends_left_s) / (len(_BATCHES) + 1 - number)
        stops_left_s = task.left_s() - share_s
        rounds = 0
        while rounds < _WARM_UPS + 1 or (rounds < most + _WARM_UPS and task.left_s() > stops_left_s):
            bench.time_decode(batch)
            bench.time_decode(batch, stopped=True)
            rounds += 1
            if rounds == _WARM_UPS:
                bench.decodes.clear()
        plain, stopped = (bench.decodes[f"decode {batch}{how}"].report(bandwidth) for how in ("", " stopped"))
        task.report.figure(
            f"{way}, batch {batch}",
            median_ms=plain["median_ms"],
            min_ms=plain["min_ms"],
            tokens_per_s=batch / plain["median_ms"] * 1e3,
            share_of_bandwidth=plain["floor_ms"] / plain["median_ms"],
            stopped_before_every_layer_ms=stopped["median_ms"],
            each_stop_us=(stopped["median_ms"] - plain["median_ms"]) / max(1, loaded.facts.num_layers - 1) * 1e3,
            rounds=rounds - _WARM_UPS,
        )
    for _ in range(_WARM_UPS + 1):
        bench.time_prefill(prefill)
    times = bench.prefill.report(bandwidth)
    task.report.figure(f"{way}, prefill of {prefill}", min_ms=times["min_ms"], median_ms=times["median_ms"])
    if missing:
        raise StepFailed(f"no CUDA graphs for batches of {sorted(missing)}")
