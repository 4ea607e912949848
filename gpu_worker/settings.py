"""What a worker is told at its start, checked before anything heavy is imported.

Knows no torch. A bad value is refused with its name, what was given and what is allowed.
"""

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from qllm.config_file import CONFIG_HELP, ConfigFile
from qllm.logs import LOG_LEVEL_HELP, LogLevel
from qllm.settings import ADVANCED, MEMORY, MODEL, SCHEDULING, SERVING, Setting, SettingRefused, check

from gpu_worker.memory_size import ALLOWED, MemorySize, parse_memory_size

_MOST_RANKS = 64


class DType(StrEnum):
    """Compute types; auto is the checkpoint's own, or float32 on a CPU that is clearly faster in it."""

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


class OffloadDType(StrEnum):
    """Types that cached rows have off the device; auto is the type that they were computed in."""

    AUTO = "auto"
    INT8 = "int8"


class Quantization(StrEnum):
    """What experts and linear layers are quantized to, bnb by bitsandbytes; none keeps the checkpoint's own weights."""

    NONE = "none"
    INT8 = "int8"
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

    Raises:
        SettingRefused: A value is not allowed, or two contradict each other.
    """

    model: Annotated[
        str,
        Setting(panel=MODEL),
        "Names the model that is run: a directory, or NAME or ORG/NAME on the Hugging Face hub. With --simulated it "
        "names a directory with a tokenizer, or anything.",
    ] = ""
    served_model_names: Annotated[
        tuple[str, ...],
        Setting(option="served-model-name", panel=MODEL, unset="from --model, org/name and name"),
        "Names the model for callers. There may be several names, with the option given several times or with commas "
        "between them; answers carry the first.",
    ] = ()
    dtype: Annotated[
        DType,
        Setting(panel=MODEL),
        "Chooses the type that is computed in. auto is the checkpoint's own; on a CPU it is float32 where a second's "
        "measurement finds that 1.2 times as fast or more and memory suffices. The cache then holds half as many "
        "tokens in as many bytes. The log says what was taken and why, and warns of a type that was asked for if "
        "another is 1.5 times as fast.",
    ] = DType.AUTO
    device: Annotated[
        Device,
        Setting(panel=MODEL),
        "Chooses where the model runs. auto is cuda where there is one.",
    ] = Device.AUTO
    weights: Annotated[
        Weights,
        Setting(panel=MODEL),
        "Chooses how weight matrices are kept: dense, or packed in the order that a CPU's kernels read, which is 2 to "
        "3 times as fast. auto packs where it can.",
    ] = Weights.AUTO
    quantization: Annotated[
        Quantization,
        Setting(panel=MODEL),
        "Quantizes experts and linear layers, all but the head, while they are read, so that the whole model is "
        "never held at full precision: int8 to whole numbers with a scale for each row, which a CPU decodes faster "
        "with, bnb-4bit to nf4 with double quantization, bnb-4bit-fp4 to fp4, bnb-8bit to whole numbers, inputs too. "
        "int8 is for CPUs only.",
    ] = Quantization.NONE
    load_format: Annotated[
        LoadFormat,
        Setting(panel=MODEL),
        "Chooses where weights come from: auto reads safetensors; dummy needs a config.json only and makes random "
        "weights on the device, to measure speed without a download.",
    ] = LoadFormat.AUTO
    generation_config: Annotated[
        GenerationConfig,
        Setting(panel=MODEL),
        "Chooses how tokens are sampled where a request does not say it: auto does it as the model's "
        "generation_config.json says, none leaves that file aside. Its end tokens count either way.",
    ] = GenerationConfig.AUTO
    tensor_parallel_size: Annotated[
        int | None,
        Setting(1, _MOST_RANKS, panel=MODEL, unset="1, under torchrun WORLD_SIZE"),
        "Holds the model in so many processes together, each a slice of every matrix. Where torchrun did not start "
        "them, the worker does.",
    ] = None
    control_endpoint: Annotated[
        str,
        Setting(panel=SERVING),
        "Names where the scheduler listens for workers, as its own --control-endpoint says: ipc://PATH, or "
        "tcp://ADDRESS:PORT, which needs CURVE keys.",
    ]
    run_ahead_ms: Annotated[
        float,
        Setting(0.01, 10_000, panel=SCHEDULING),
        "Limits how many milliseconds of work a GPU is given ahead, which no preemption can "
        "stop. No CUDA graph is longer.",
    ] = 1.0
    enforce_eager: Annotated[
        bool,
        Setting(panel=SCHEDULING),
        "Lets the model run every decode on a GPU itself, rather than replay it from CUDA graphs.",
    ] = False
    block_size: Annotated[
        int,
        Setting(1, 1024, panel=MEMORY),
        "Sets how many tokens one block of the cache holds.",
    ] = 16
    kv_memory: Annotated[
        str | None,
        Setting(allowed=ALLOWED, metavar="SIZE|SHARE", panel=MEMORY, unset="80% on cuda, 25% on a CPU"),
        "Sets how much of the device's memory, or on a CPU of the host's, the KV cache takes: a size such as 2GiB or "
        "512MiB, or a share such as 25% of what is free once the model is loaded. Where nothing is set, a CPU's cache "
        "is no larger than 256 texts of the greatest length fill. A CPU's is filled with zeros at the start, at about "
        "1 GiB a second.",
    ] = None
    num_blocks: Annotated[
        int | None,
        Setting(1, 1 << 24, panel=MEMORY, unset="as many as --kv-memory holds"),
        "Sets how many blocks the KV cache has, instead of as many as --kv-memory holds.",
    ] = None
    host_kv_gib: Annotated[
        float,
        Setting(0, 1 << 16, panel=MEMORY),
        "Sets how many GiB of the host's memory hold the caches of sequences that gave way to others.",
    ] = 1.0
    offload_dir: Annotated[
        Path | None,
        Setting(metavar="DIR", panel=MEMORY, unset="no disk is used"),
        "Names a directory for a file with the caches of sequences that host memory has no room for. It goes with "
        "--offload-disk-gib. The file has no name and is gone when the worker ends, however it ends.",
    ] = None
    offload_disk_gib: Annotated[
        float,
        Setting(0, 1 << 20, panel=MEMORY),
        "Sets how many GiB the file in --offload-dir takes, all of them from the start; 0 uses no disk. Each process "
        "of --tensor-parallel-size has a file of this size.",
    ] = 0.0
    offload_dtype: Annotated[
        OffloadDType,
        Setting(panel=MEMORY),
        "Chooses how cached rows are kept in host memory and on disk: auto keeps them as they were computed, so that "
        "moving changes no token. int8 takes a quarter of float32's room and half of bfloat16's, with a scale for "
        "each head and block; what comes back differs by up to half a scale, so that tokens may differ. Keys that "
        "choose what is attended to (of an indexer) are kept as computed.",
    ] = OffloadDType.AUTO
    max_model_len: Annotated[
        int | None,
        Setting(2, 1 << 24, panel=MEMORY, unset="the model's own"),
        "Limits how many tokens a prompt and its output may have together. It may not exceed the model's own limit.",
    ] = None
    # More than 64 are allowed on a machine that has more cores.
    num_threads: Annotated[
        int | None,
        Setting(1, option="threads", panel=ADVANCED, unset="all cores that the process may use"),
        "Sets how many threads compute one tensor operation. Cores that the process may use are those in its affinity, "
        "and no more than its control group's quota. Where threads take every core, each is kept on one of its own, "
        "unless OMP_PROC_BIND says otherwise.",
    ] = None
    simulated: Annotated[
        str,
        Setting(metavar="TABLE", panel=ADVANCED),
        "Runs no model, but takes the time that a cost table says: the name of a JSON file, or of a table that comes "
        "with QLLM, which are zero (everything takes no time), a100-mixtral-8x7b, h200-mixtral-8x7b, "
        "zen3-mini-mixtral, zen4-mini-mixtral and zen5-mini-mixtral. Settings that concern tensors have no effect "
        "then.",
    ] = ""
    record_costs: Annotated[
        Path | None,
        Setting(metavar="FILE", panel=ADVANCED),
        "Writes how long work takes here as a cost table, for --simulated and for qllm-client bench simulate. It is "
        "fitted to all steps, those of the warm-up too, and written every 10 seconds and at the end, which takes some "
        "milliseconds of the model's time. A worker that is started again begins the file anew.",
    ] = None
    curve_secret_key: Annotated[
        Path | None,
        Setting(panel=ADVANCED),
        "Names the file with the worker's own pair of CURVE keys (*.key_secret), as pyzmq's "
        "zmq.auth.create_certificates writes it. It goes with --curve-server-key.",
    ] = None
    curve_server_key: Annotated[
        Path | None,
        Setting(panel=ADVANCED),
        "Names the file with the scheduler's public CURVE key (*.key). It goes with --curve-secret-key.",
    ] = None
    log_level: Annotated[LogLevel, Setting(panel=ADVANCED), LOG_LEVEL_HELP] = LogLevel.INFO
    config_file: Annotated[Path | None, ConfigFile(option="config", table="worker"), CONFIG_HELP] = None
    shared_config: Annotated[
        Path | None,
        ConfigFile(table="worker", is_shared=True, hidden=True),
        "Reads the table [worker] of the scheduler's config file.",
    ] = None
    parent_pid: Annotated[
        int | None,
        Setting(hidden=True),
        "Ends the worker when this process ends, which started it.",
    ] = None

    def __post_init__(self) -> None:
        check(self)
        if not self.model and not self.simulated:
            raise SettingRefused("--model: got nothing, allowed is a directory or a hub id")
        if (self.curve_secret_key is None) != (self.curve_server_key is None):
            raise SettingRefused("CURVE needs both --curve-secret-key and --curve-server-key")
        self._check_endpoint()
        self._check_kv_memory()
        if (self.offload_dir is None) != (self.offload_disk_gib == 0):
            raise SettingRefused(
                f"--offload-dir and --offload-disk-gib: got {self.offload_dir or 'nothing'} and "
                f"{self.offload_disk_gib:g}, allowed are both, or neither"
            )
        if self.simulated and self.record_costs is not None:
            raise SettingRefused(
                f"--record-costs: got {self.record_costs}, allowed with --simulated is nothing: it takes a table's time"
            )
        most_threads = max(64, len(os.sched_getaffinity(0)))
        if self.num_threads is not None and self.num_threads > most_threads:
            raise SettingRefused(f"--threads: got {self.num_threads}, allowed is 1 to {most_threads}")
        if not 1 <= self.num_ranks <= _MOST_RANKS:
            raise SettingRefused(f"WORLD_SIZE: got {self.num_ranks}, allowed is 1 to {_MOST_RANKS}")
        if self.num_ranks > 1 and self.quantization is not Quantization.NONE:
            raise SettingRefused(
                f"--quantization: got {self.quantization}, allowed with --tensor-parallel-size over 1 is none"
            )
        if self.num_ranks > 1 and self.load_format is not LoadFormat.AUTO:
            raise SettingRefused("--load-format: got dummy, allowed with --tensor-parallel-size over 1 is auto")

    @property
    def num_ranks(self) -> int:
        """How many processes hold the model together."""
        return self.tensor_parallel_size or int(os.environ.get("WORLD_SIZE", "1"))

    @property
    def curve(self) -> CurveFiles | None:
        """The CURVE keys; None without."""
        if self.curve_secret_key is None or self.curve_server_key is None:
            return None
        return CurveFiles(self.curve_secret_key, self.curve_server_key)

    @property
    def kv_memory_size(self) -> MemorySize | None:
        """What the KV cache takes; None where nothing is set."""
        return None if self.kv_memory is None else parse_memory_size(self.kv_memory)

    def _check_kv_memory(self) -> None:
        try:
            _ = self.kv_memory_size
        except ValueError as refusal:
            raise SettingRefused(f"--kv-memory: {refusal}") from refusal

    def _check_endpoint(self) -> None:
        if not self.control_endpoint.startswith(("ipc://", "tcp://")):
            given = repr(self.control_endpoint)
            raise SettingRefused(f"--control-endpoint: got {given}, allowed are ipc://PATH and tcp://ADDRESS:PORT")
        if self.control_endpoint.startswith("tcp://") and self.curve is None:
            raise SettingRefused(
                f"--control-endpoint: {self.control_endpoint} is allowed with CURVE keys only; give --curve-secret-key "
                "and --curve-server-key, or use ipc://PATH"
            )
