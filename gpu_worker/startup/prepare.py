"""Makes a worker out of its settings: loads the model, sizes the cache, warms up, and writes the Hello.

The only place that knows both the settings and the model side. Nothing is connected yet when it is done.
"""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from qllm.settings import SettingRefused

from gpu_worker.cache.compressed import Form, Int8
from gpu_worker.checkpoint.names import served_names
from gpu_worker.contract.introduction import Hello, WorkerModel
from gpu_worker.contract.results import WorkTiming
from gpu_worker.execution.executor import RunnerExecutor
from gpu_worker.execution.ranks import Ranks
from gpu_worker.execution.runner import Runner
from gpu_worker.machine.threads import thread_count
from gpu_worker.model.loader import LoadedModel, load_model
from gpu_worker.model.weights import WeightOptions
from gpu_worker.replay.recording import record_decodes
from gpu_worker.replay.segments import batch_sizes, plan_segments
from gpu_worker.settings import Device, GenerationConfig, OffloadDType, WorkerConfig
from gpu_worker.startup.capacity import bytes_of_caches, capacity_of, report
from gpu_worker.startup.disk import open_disk
from gpu_worker.startup.measuring import measure_kept
from gpu_worker.startup.warmup import touch_memory, warm_up

_log = logging.getLogger(__name__)

_WARM_UP_TOKENS = 300
_MOST_RECORDED = 64


@dataclass(frozen=True, slots=True)
class ReadyWorker:
    """A model that waits for commands, and how it introduces itself; ranks are who else holds a slice, if anybody."""

    executor: RunnerExecutor
    hello: Hello
    ranks: Ranks | None


def prepare(config: WorkerConfig) -> ReadyWorker:
    """Loads and warms the model; raises ModelRefused, PassFailed or SettingRefused when it can't serve."""
    set_threads(config)
    torch.set_num_interop_threads(1)
    device = _choose_device(config.device)
    _log.info("loading model=%s dtype=%s device=%s", config.model, config.dtype, device)
    began_s = time.monotonic()
    names = served_names(config.model, config.served_model_names)
    # On a device transformers binds each rank to one of its own, so that they do not meet before it has.
    ranks = Ranks() if config.num_ranks > 1 and device == "cpu" else None
    loaded = load_model(
        config.model,
        name=names[0],
        device=device,
        max_model_len=config.max_model_len,
        uses_generation_config=config.generation_config is GenerationConfig.AUTO,
        options=WeightOptions(
            config.dtype.value,
            config.weights.value,
            config.quantization.value,
            config.load_format.value,
            is_sliced=config.num_ranks > 1,
        ),
        cache_bytes=bytes_of_caches(config, device),
        ranks=ranks,
    )
    _log.info("loaded model=%s seconds=%.1f", loaded.facts.name, time.monotonic() - began_s)
    if config.num_ranks > 1 and ranks is None:
        ranks = Ranks()
    return make_ready(config, loaded, ranks)


def set_threads(config: WorkerConfig) -> None:
    """Lets tensor operations use as many threads as the settings or the machine say."""
    threads = thread_count(config)
    torch.set_num_threads(threads.number)
    _log.info("threads=%d from=%s", threads.number, threads.origin)


def make_ready(config: WorkerConfig, loaded: LoadedModel, ranks: Ranks | None = None) -> ReadyWorker:
    """Sizes the cache, warms a loaded model, records its decodes and writes the Hello; raises as `prepare` does."""
    device, names = loaded.facts.device, served_names(config.model, config.served_model_names)
    with torch.inference_mode():
        kept = measure_kept(loaded, config.block_size, _form(config))
        capacity = capacity_of(config, loaded.facts, kept)
        if ranks is not None:
            capacity = capacity.least(ranks)
        report(kept, capacity)
        _report_sharing(loaded.no_sharing_reason)
        num_blocks = capacity.num_blocks
        runner = Runner(
            loaded,
            num_blocks,
            config.block_size,
            capacity.num_host_blocks,
            run_ahead_ms=config.run_ahead_ms,
            disk=open_disk(config.offload_dir, capacity.num_disk_blocks, capacity.host_block_bytes),
            form=_form(config),
        )
        block_ids = range(min(num_blocks, -(-_WARM_UP_TOKENS // config.block_size)))
        timings = warm_up(runner, block_ids)
        _log.info("warmed_up iterations=%d", len(timings))
        may_record = device.startswith("cuda") and ranks is None and not config.enforce_eager
        if may_record and _record_decodes(loaded, runner, timings, config):
            timings = warm_up(runner, block_ids)
        if device == "cpu":
            touch_memory()  # last: what warming up left in the heap must not lie in it
    model = replace(
        _worker_model(loaded, runner, names),
        block_bytes=kept.block_bytes,
        host_block_bytes=capacity.host_block_bytes,
        state_bytes=kept.state_bytes,
        num_states=capacity.num_states,
        no_sharing_reason=loaded.no_sharing_reason,
        no_structure_reason=_no_structures(runner, config),
    )
    hello = Hello(model, timings, os.getpid())
    return ReadyWorker(RunnerExecutor(runner), hello, ranks)


def _record_decodes(loaded: LoadedModel, runner: Runner, timings: Sequence[WorkTiming], config: WorkerConfig) -> bool:
    """Has the runner replay its decodes, in segments as long as may be; returns whether it does."""
    decodes = [timing for timing in timings if timing.attention_tokens == timing.num_attention_stages]
    if not decodes:
        return False  # not even one token fitted
    decode = min(decodes, key=lambda timing: timing.layers_ns)
    layer_ms = decode.layers_ns / decode.num_attention_stages / 1e6
    segments = plan_segments(loaded.facts.num_layers, layer_ms, config.run_ahead_ms)
    began_s = time.monotonic()
    recordings = record_decodes(loaded, runner.cache, batch_sizes(_MOST_RECORDED), segments)
    runner.record_decodes(recordings, decode.expert_ns / decode.layers_ns)
    _log.info(
        "recorded decodes=%d largest=%d layers_each=%d layer_ms=%.3f seconds=%.1f",
        len(recordings),
        max((recording.placement.num_rows for recording in recordings), default=0),
        len(segments[0]),
        layer_ms,
        time.monotonic() - began_s,
    )
    return bool(recordings)


def _choose_device(device: Device) -> str:
    if device is Device.CUDA and not torch.cuda.is_available():
        raise SettingRefused("--device: got cuda, but this machine or this torch has no CUDA; allowed are cpu and auto")
    if device is Device.AUTO:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device.value


def _no_structures(runner: Runner, config: WorkerConfig) -> str:
    """Says why texts can't be kept to structures; empty where they can."""
    # Each rank follows by itself, and what takes too long by a clock would end on one of them first.
    reason = "the model is held by several ranks" if config.num_ranks > 1 else runner.guides.get_ready()
    if reason:
        _log.info("texts are kept to no structures reason=%r", reason)
    return reason


def _report_sharing(no_sharing_reason: str) -> None:
    if no_sharing_reason:
        _log.info("sequences that begin alike share no blocks reason=%r", no_sharing_reason)
    else:
        _log.info("sequences that begin alike share blocks")


def _form(config: WorkerConfig) -> Form | None:
    return Int8(config.block_size) if config.offload_dtype is OffloadDType.INT8 else None


def _worker_model(loaded: LoadedModel, runner: Runner, names: Sequence[str]) -> WorkerModel:
    facts, tokenizer = loaded.facts, loaded.facts.tokenizer
    return WorkerModel(
        name=facts.name,
        other_names=names[1:],
        family=facts.family,
        experts_by_layer=facts.experts_by_layer,
        num_experts_per_token=facts.num_experts_per_token,
        vocab_size=facts.vocab_size,
        eos_token_ids=facts.eos_token_ids,
        max_model_len=facts.max_model_len,
        block_size=runner.cache.block_size,
        num_blocks=runner.cache.num_blocks,
        num_host_blocks=runner.cache.blocks.num_host_blocks,
        num_disk_blocks=runner.cache.blocks.num_disk_blocks,
        dtype=facts.dtype,
        checkpoint_dtype=facts.checkpoint_dtype,
        dtype_reason=facts.dtype_reason,
        quantization=facts.quantization,
        device=facts.device,
        tokenizer_json=tokenizer.tokenizer_json,
        chat_template=tokenizer.chat_template,
        special_tokens=tokenizer.special_tokens,
        sampling=facts.sampling,
    )
