"""What a worker is told at its start, checked before anything heavy is imported.

Knows no torch. A bad value is refused with its name, what was given and what is allowed.
"""

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class ConfigRefused(ValueError):
    """A setting that is not allowed."""


class DType(StrEnum):
    """Compute types; auto is the checkpoint's own, or float32 on a CPU that is faster in it."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Device(StrEnum):
    """Devices; auto is cuda where there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Weights(StrEnum):
    """Forms that weight matrices are kept in; auto is packed wherever that can be done."""

    AUTO = "auto"
    DENSE = "dense"
    PACKED = "packed"


class LoadFormat(StrEnum):
    """Where weights come from: the checkpoint's safetensors, or nowhere, random ones being made on the device."""

    AUTO = "auto"
    DUMMY = "dummy"


class GenerationConfig(StrEnum):
    """Whether a checkpoint's generation_config.json says how tokens are chosen where a request does not."""

    AUTO = "auto"
    NONE = "none"


class Quantization(StrEnum):
    """What experts and linear layers are quantized to, by bitsandbytes; none keeps the checkpoint's own weights."""

    NONE = "none"
    BNB_4BIT = "bnb-4bit"
    BNB_4BIT_FP4 = "bnb-4bit-fp4"
    BNB_8BIT = "bnb-8bit"


@dataclass(frozen=True, slots=True)
class CurveFiles:
    """Key files as `zmq.auth.create_certificates` writes them: the worker's own pair, the scheduler's public key."""

    secret_key_file: Path
    server_key_file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """The worker's settings.

    Attributes:
        model: Directory or hub id; with `simulated` a directory with a tokenizer, or any name.
        simulated: Cost table that stands for a model, by file or name; empty runs a model.
        control_endpoint: Where the scheduler binds.
        tensor_parallel_size: Processes that hold the model together, each a slice of every matrix.
        num_threads: Threads of one tensor operation; None takes all cores that it may use.
        run_ahead_ms: Longest work that a GPU is given ahead, and length of a CUDA graph.
        enforce_eager: Whether decodes on a GPU are run by the model each time rather than replayed from CUDA graphs.
        block_size: Tokens in one cache block.
        num_blocks: Device cache blocks; None makes as many as fit `kv_cache_gib`.
        kv_cache_gib: GiB of device memory for the cache, where `num_blocks` is None; None chooses.
        host_kv_gib: GiB of host memory for offloaded sequences.
        max_model_len: Limit on prompt plus output, no longer than the model's own, which None takes.
        generation_config: Whether the model's own generation_config.json says how tokens are chosen.
        served_model_names: Names of the model for callers, answers carrying the first; none takes them from `model`.
        parent_pid: Process whose end ends this one; None for a worker that stands alone.
    """

    model: str
    control_endpoint: str
    simulated: str = ""
    dtype: DType = DType.AUTO
    device: Device = Device.AUTO
    weights: Weights = Weights.AUTO
    quantization: Quantization = Quantization.NONE
    load_format: LoadFormat = LoadFormat.AUTO
    tensor_parallel_size: int = 1
    num_threads: int | None = None
    run_ahead_ms: float = 1.0
    enforce_eager: bool = False
    block_size: int = 16
    num_blocks: int | None = None
    kv_cache_gib: float | None = None
    host_kv_gib: float = 1.0
    max_model_len: int | None = None
    generation_config: GenerationConfig = GenerationConfig.AUTO
    served_model_names: tuple[str, ...] = ()
    curve: CurveFiles | None = None
    parent_pid: int | None = None

    def __post_init__(self) -> None:
        if not self.model and not self.simulated:
            raise ConfigRefused("--model: got nothing, allowed is a directory or a hub id")
        self._check_endpoint()
        num_cores = len(os.sched_getaffinity(0))
        _check("--threads", self.num_threads, 1, max(64, num_cores))
        _check("--tensor-parallel-size", self.tensor_parallel_size, 1, 64)
        if self.tensor_parallel_size > 1 and self.quantization is not Quantization.NONE:
            raise ConfigRefused(
                f"--quantization: got {self.quantization}, allowed with --tensor-parallel-size over 1 is none"
            )
        if self.tensor_parallel_size > 1 and self.load_format is not LoadFormat.AUTO:
            raise ConfigRefused("--load-format: got dummy, allowed with --tensor-parallel-size over 1 is auto")
        _check("--run-ahead-ms", self.run_ahead_ms, 0.01, 10_000)
        _check("--block-size", self.block_size, 1, 1024)
        _check("--num-blocks", self.num_blocks, 1, 1 << 24)
        _check("--kv-cache-gib", self.kv_cache_gib, 0.001, 1 << 16)
        _check("--host-kv-gib", self.host_kv_gib, 0, 1 << 16)
        _check("--max-model-len", self.max_model_len, 2, 1 << 24)

    def _check_endpoint(self) -> None:
        if not self.control_endpoint.startswith(("ipc://", "tcp://")):
            given = repr(self.control_endpoint)
            raise ConfigRefused(f"--control-endpoint: got {given}, allowed are ipc://PATH and tcp://ADDRESS:PORT")
        if self.control_endpoint.startswith("tcp://") and self.curve is None:
            raise ConfigRefused(
                f"--control-endpoint: {self.control_endpoint} is allowed with CURVE keys only; give --curve-secret-key and "
                "--curve-server-key, or use ipc://PATH"
            )


def _check(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise ConfigRefused(f"{name}: got {value}, allowed is {low} to {high}")
