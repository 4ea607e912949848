"""The worker process, `qllm-worker`: reads its settings, makes the model ready, connects, and runs commands until told to stop.

Exit codes: 0 after Shutdown, SIGTERM, SIGINT or SIGHUP; 1 when the engine can't go on; 2 when it refuses what it was told.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from qllm.command_line import run_command
from qllm.reporting import report_without_failing

from gpu_worker.channel.codec import encode_hello
from gpu_worker.channel.curve import load_curve
from gpu_worker.channel.engine import Engine, FatalEngineError
from gpu_worker.channel.link import SchedulerLink
from gpu_worker.channel.mailbox import Mailbox, Progress
from gpu_worker.channel.signals import StopSignals
from gpu_worker.contract.executor import Executor
from gpu_worker.contract.introduction import Hello
from gpu_worker.errors import DeviceLost, WorkerError
from gpu_worker.execution.forgiving import ForgivingExecutor
from gpu_worker.machine.cores import Cores
from gpu_worker.machine.process import (
    become_several,
    die_with,
    is_one_of_several,
    sleep_precisely,
    spare_the_engine,
    wait_briefly,
)
from gpu_worker.settings import (
    ConfigRefused,
    CurveFiles,
    Device,
    DType,
    GenerationConfig,
    LoadFormat,
    Quantization,
    Weights,
    WorkerConfig,
)

_log = logging.getLogger("gpu_worker")

_REFUSED = 2
_FATAL = 1


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def serve(
    control_endpoint: Annotated[
        str,
        typer.Option(
            envvar="QLLM_CONTROL_ENDPOINT", help="Where the scheduler binds: ipc://PATH or tcp://ADDRESS:PORT."
        ),
    ],
    model: Annotated[str, typer.Option(envvar="QLLM_MODEL", help="Directory or hub id of the model.")] = "",
    simulated: Annotated[
        str,
        typer.Option(
            envvar="QLLM_SIMULATED",
            metavar="TABLE",
            help="Run no model, but take the time that a cost table says: a JSON file, zero or a100-mixtral-8x7b. "
            "--model then names a tokenizer's directory; what concerns tensors does not apply.",
        ),
    ] = "",
    dtype: Annotated[
        DType,
        typer.Option(
            envvar="QLLM_DTYPE",
            help="Compute type. auto is the checkpoint's own, or float32 on a CPU that a short measurement shows to be faster "
            "in it, where memory suffices.",
        ),
    ] = DType.AUTO,
    device: Annotated[Device, typer.Option(envvar="QLLM_DEVICE", help="Where the model runs.")] = Device.AUTO,
    weights: Annotated[
        Weights,
        typer.Option(
            envvar="QLLM_WEIGHTS",
            help="How matrices are kept: dense, or packed in the order that a CPU's kernels read, 2 to 3 times as fast. "
            "auto packs where it can.",
        ),
    ] = Weights.AUTO,
    quantization: Annotated[
        Quantization,
        typer.Option(
            envvar="QLLM_QUANTIZATION",
            help="Quantize experts and linear layers, all but the head, while they are read: bnb-4bit (nf4, double "
            "quantization), bnb-4bit-fp4, or bnb-8bit. Never holds the whole model at full precision.",
        ),
    ] = Quantization.NONE,
    load_format: Annotated[
        LoadFormat,
        typer.Option(
            envvar="QLLM_LOAD_FORMAT",
            help="auto reads safetensors; dummy needs a config.json only and makes random weights on the device, to measure "
            "speed without a download.",
        ),
    ] = LoadFormat.AUTO,
    tensor_parallel_size: Annotated[
        int,
        typer.Option(
            envvar="QLLM_TENSOR_PARALLEL_SIZE",
            help="Processes that hold the model together, each a slice of every matrix; started by torchrun, or give it more "
            "than 1 here.",
        ),
    ] = int(os.environ.get("WORLD_SIZE", "1")),
    threads: Annotated[
        int | None,
        typer.Option(
            envvar="QLLM_THREADS",
            help="Threads of one tensor operation. Where they take every core they keep one each, unless OMP_PROC_BIND says "
            "otherwise. [default: all cores that the process may use, by its affinity and its control group's quota]",
        ),
    ] = None,
    run_ahead_ms: Annotated[
        float,
        typer.Option(
            envvar="QLLM_RUN_AHEAD_MS",
            help="On a GPU, longest work given to it ahead, which no preemption can stop, and length of a CUDA graph.",
        ),
    ] = 1.0,
    enforce_eager: Annotated[
        bool,
        typer.Option(
            "--enforce-eager", envvar="QLLM_ENFORCE_EAGER", help="On a GPU, replay no decodes from CUDA graphs."
        ),
    ] = False,
    block_size: Annotated[int, typer.Option(envvar="QLLM_BLOCK_SIZE", help="Tokens in one cache block.")] = 16,
    kv_cache_gib: Annotated[
        float | None,
        typer.Option(
            envvar="QLLM_KV_CACHE_GIB", help="GiB for the KV cache. [default: 1, on cuda 80 % of what is free]"
        ),
    ] = None,
    num_blocks: Annotated[
        int | None, typer.Option(envvar="QLLM_NUM_BLOCKS", help="Cache blocks, instead of --kv-cache-gib.")
    ] = None,
    host_kv_gib: Annotated[float, typer.Option(envvar="QLLM_HOST_KV_GIB", help="GiB for offloaded sequences.")] = 1.0,
    max_model_len: Annotated[
        int | None,
        typer.Option(
            envvar="QLLM_MAX_MODEL_LEN", help="Limit on prompt plus output, up to the model's own. [default: that]"
        ),
    ] = None,
    generation_config: Annotated[
        GenerationConfig,
        typer.Option(
            envvar="QLLM_GENERATION_CONFIG",
            help="auto samples as the model's generation_config.json says where a request does not; none leaves it aside. "
            "Its end tokens count either way.",
        ),
    ] = GenerationConfig.AUTO,
    served_model_name: Annotated[
        list[str] | None,
        typer.Option(
            envvar="QLLM_SERVED_MODEL_NAME",
            help="Name for callers; several if given several times, or with commas between them. Answers carry the first. "
            "[default: from --model, org/name and name]",
        ),
    ] = None,
    curve_secret_key: Annotated[
        Path | None, typer.Option(envvar="QLLM_CURVE_SECRET_KEY", help="The worker's CURVE key pair (*.key_secret).")
    ] = None,
    curve_server_key: Annotated[
        Path | None, typer.Option(envvar="QLLM_CURVE_SERVER_KEY", help="The scheduler's public CURVE key (*.key).")
    ] = None,
    log_level: Annotated[
        LogLevel, typer.Option(envvar="QLLM_LOG_LEVEL", help="Sets how much is logged.")
    ] = LogLevel.INFO,
    parent_pid: Annotated[
        int | None, typer.Option(envvar="QLLM_PARENT_PID", help="End when this parent process does.", hidden=True)
    ] = None,
) -> None:
    """Runs a Mixture-of-Experts model as a scheduler tells it to.

    Every option may also come from the environment, --block-size as QLLM_BLOCK_SIZE; options win.
    """
    _set_up_logging(log_level)
    try:
        curve = _curve_files(curve_secret_key, curve_server_key)
        config = WorkerConfig(
            model=model,
            control_endpoint=control_endpoint,
            simulated=simulated,
            dtype=dtype,
            device=device,
            weights=weights,
            quantization=quantization,
            load_format=load_format,
            tensor_parallel_size=tensor_parallel_size,
            num_threads=threads,
            run_ahead_ms=run_ahead_ms,
            enforce_eager=enforce_eager,
            block_size=block_size,
            num_blocks=num_blocks,
            kv_cache_gib=kv_cache_gib,
            host_kv_gib=host_kv_gib,
            max_model_len=max_model_len,
            generation_config=generation_config,
            served_model_names=tuple(served_model_name or ()),
            curve=curve,
            parent_pid=parent_pid,
        )
        run(config)
    except DeviceLost as error:
        _log.critical("device_lost error=%r", str(error))
        sys.exit(_FATAL)
    except (ConfigRefused, WorkerError) as refusal:
        sys.stderr.write(f"qllm-worker: {refusal}\n")
        sys.exit(_REFUSED)
    except FatalEngineError as error:
        _log.critical("engine_died error=%r", str(error), exc_info=True)
        sys.exit(_FATAL)


def run(config: WorkerConfig) -> None:
    """Runs a worker until it is told to stop; raises ConfigRefused or WorkerError when it can't start."""
    mailbox, progress = Mailbox(), Progress()
    signals = StopSignals(mailbox)
    signals.install()
    if is_one_of_several():
        die_with(os.getppid())
    elif config.parent_pid is not None:
        die_with(config.parent_pid)
    if config.tensor_parallel_size > 1 and not is_one_of_several():
        become_several(config.tensor_parallel_size)
    curve = load_curve(config.curve)
    cores = Cores()
    with _simulation(config) if config.simulated else _model(config, cores) as (executor, hello):
        link = SchedulerLink(config.control_endpoint, encode_hello(hello), mailbox, progress, curve=curve)
        spare_the_engine()
        signals.serving()
        link.start()
        cores.keep_own()
        try:
            Engine(mailbox, ForgivingExecutor(executor, hello.model.num_layers), link, progress).run()
        finally:
            link.close()


@contextmanager
def _model(config: WorkerConfig, cores: Cores) -> Iterator[tuple[Executor, Hello]]:
    """Makes a model ready, and keeps gradients off while it serves."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # stderr is a log here
    _require_extra()
    from gpu_worker.checkpoint.files import check_checkpoint

    check_checkpoint(config.model, needs_weights=config.load_format is LoadFormat.AUTO)
    wait_briefly()
    cores.bind_threads(config)
    import torch  # not before the settings are known to be good: it takes seconds

    cores.let_go()
    from gpu_worker.execution.ranks import LeadingExecutor, follow
    from gpu_worker.startup.prepare import prepare

    worker = prepare(config)
    cores.num_threads = torch.get_num_threads()
    with torch.inference_mode():
        if worker.ranks is None:
            yield worker.executor, worker.hello
            return
        if worker.ranks.rank > 0:
            follow(worker.executor, worker.ranks)
            sys.exit(0)
        leader = LeadingExecutor(worker.executor, worker.ranks)
        try:
            yield leader, worker.hello
        finally:
            leader.stop()


@contextmanager
def _simulation(config: WorkerConfig) -> Iterator[tuple[Executor, Hello]]:
    """Makes a simulated model ready, on a thread that sleeps as long as it means to."""
    from gpu_worker.simulated.startup import prepare_simulation

    worker = prepare_simulation(config)
    sleep_precisely()
    yield worker.executor, worker.hello


def _require_extra() -> None:
    """Raises ConfigRefused unless what runs models is installed."""
    missing = [name for name in ("torch", "transformers", "safetensors", "greenlet") if find_spec(name) is None]
    if missing:
        raise ConfigRefused(
            f"running a model needs packages that are not installed ({', '.join(missing)}): pip install 'qllm[worker]'"
        )


def _curve_files(secret_key: Path | None, server_key: Path | None) -> CurveFiles | None:
    if secret_key is None and server_key is None:
        return None
    if secret_key is None or server_key is None:
        raise ConfigRefused("CURVE needs both --curve-secret-key and --curve-server-key")
    return CurveFiles(secret_key, server_key)


def _set_up_logging(level: LogLevel) -> None:
    line = "%(asctime)s %(levelname)s pid=%(process)d %(name)s %(message)s"
    logging.basicConfig(level=level.upper(), stream=sys.stderr, format=line)


def main() -> None:
    """Entry point of `qllm-worker`."""
    report_without_failing()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(serve)
    run_command(app, "qllm-worker")


if __name__ == "__main__":
    main()
