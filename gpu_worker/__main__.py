"""The worker process, `qllm-worker`: reads its settings, readies the model, connects, and runs commands until stopped.

Exit codes: 0 after Shutdown, SIGTERM, SIGINT or SIGHUP; 1 when the engine can't go on; 2
when it refuses what it was told.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import typer
from qllm.command_line import run_command
from qllm.logs import set_up_logging
from qllm.options import with_settings
from qllm.reporting import report_without_failing
from qllm.settings import SettingRefused

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
from gpu_worker.machine.disk_room import why_no_room
from gpu_worker.machine.process import (
    become_several,
    die_with,
    is_one_of_several,
    sleep_precisely,
    spare_the_engine,
    wait_briefly,
)
from gpu_worker.machine.whole_file import why_not_writable
from gpu_worker.settings import LoadFormat, WorkerConfig

_log = logging.getLogger("gpu_worker")

_FATAL = 1


@with_settings
def serve(config: WorkerConfig) -> None:
    """Runs a Mixture-of-Experts model as a scheduler tells it to.

    `qllm-scheduler --spawn-worker` starts one by itself, with the options that stand after -- there. A worker that is
    started with this command, in a container or on another machine, connects to the scheduler at --control-endpoint. A
    scheduler has one worker; a second one waits until the first is gone.

    [bold]Examples[/bold]

      qllm-worker --control-endpoint ipc:///run/qllm/control --model DIR   (and a scheduler there)

      qllm-worker --control-endpoint ipc:///run/qllm/control --config qllm.toml --check-config   (starts nothing)

    Every option may also come from the environment, --block-size as QLLM_BLOCK_SIZE, or from the file of --config.
    Options win over the environment, and the environment over the file.
    """
    set_up_logging(config.log_level)
    try:
        run(config)
    except DeviceLost as error:
        _log.critical("device_lost error=%r", str(error))
        sys.exit(_FATAL)
    except WorkerError as refusal:
        raise SettingRefused(str(refusal)) from None
    except FatalEngineError as error:
        _log.critical("engine_died error=%r", str(error), exc_info=True)
        sys.exit(_FATAL)


def run(config: WorkerConfig) -> None:
    """Runs a worker until it is told to stop; raises SettingRefused or WorkerError when it can't start."""
    mailbox, progress = Mailbox(), Progress()
    signals = StopSignals(mailbox)
    signals.install()
    if is_one_of_several():
        die_with(os.getppid())
    elif config.parent_pid is not None:
        die_with(config.parent_pid)
    if config.num_ranks > 1 and not is_one_of_several():
        become_several(config.num_ranks)
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

    if config.record_costs is not None and (reason := why_not_writable(config.record_costs)):
        raise SettingRefused(f"--record-costs: {config.record_costs} can't be written ({reason}); allowed is a file")
    if config.offload_dir is not None:
        num_bytes = config.num_ranks * int(config.offload_disk_gib * (1 << 30))
        if reason := why_no_room(config.offload_dir, num_bytes):
            raise SettingRefused(
                f"--offload-dir: {config.offload_dir} can't be used ({reason}); allowed is a directory with room for "
                f"--offload-disk-gib, {config.offload_disk_gib:g} GiB"
            )
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
            with _recording(config, worker.executor, worker.hello) as executor:
                yield executor, worker.hello
            return
        if worker.ranks.rank > 0:
            follow(worker.executor, worker.ranks)
            sys.exit(0)
        leader = LeadingExecutor(worker.executor, worker.ranks)
        try:
            with _recording(config, leader, worker.hello) as executor:
                yield executor, worker.hello
        finally:
            leader.stop()


@contextmanager
def _recording(config: WorkerConfig, executor: Executor, hello: Hello) -> Iterator[Executor]:
    """Yields the executor, with a recorder of what its steps take in front of it if one is wanted."""
    if config.record_costs is None:
        yield executor
        return
    from gpu_worker.execution.cost_recorder import recording_costs

    with recording_costs(executor, hello, config.record_costs) as recording:
        yield recording


@contextmanager
def _simulation(config: WorkerConfig) -> Iterator[tuple[Executor, Hello]]:
    """Makes a simulated model ready, on a thread that sleeps as long as it means to."""
    from gpu_worker.simulated.startup import prepare_simulation

    worker = prepare_simulation(config)
    sleep_precisely()
    yield worker.executor, worker.hello


def _require_extra() -> None:
    """Raises SettingRefused unless what runs models is installed."""
    missing = [name for name in ("torch", "transformers", "safetensors", "greenlet") if find_spec(name) is None]
    if missing:
        raise SettingRefused(
            f"running a model needs packages that are not installed ({', '.join(missing)}): pip install 'qllm[worker]'"
        )


def main() -> None:
    """Entry point of `qllm-worker`."""
    report_without_failing()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(serve)
    run_command(app, "qllm-worker")


if __name__ == "__main__":
    main()
