"""The paper's point: what a latency-sensitive request waits for under fcfs, and under qllm that stops at experts.

This process is the worker, so that its model is made once; the schedulers, one after another, and the load are other processes.

    this process: worker ◀──ZeroMQ── scheduler fcfs, then qllm, then … ◀──gRPC── load: rate 2, rate 8

Source: arXiv 2503.09304, evaluation.
"""

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import torch

from client.bench.commands.ablation import SetUp
from gpu_worker.channel.engine import Engine
from gpu_worker.channel.link import SchedulerLink
from gpu_worker.channel.mailbox import Mailbox, Progress, Stop
from gpu_worker.execution.forgiving import ForgivingExecutor
from gpu_worker.settings import Device, LoadFormat, WorkerConfig
from gpu_worker.startup.prepare import make_ready
from scripts.gpu_proof.child import StepFailed, Task
from scripts.gpu_proof.packages import ROOT
from scripts.gpu_proof.steps.model import LargeModel, device_of, large_model

_RATES = (2.0, 8.0)
_SET_UPS = (SetUp.FCFS, SetUp.EXPERT)
_CPU_CACHE_GIB = 0.25


def run(task: Task) -> None:
    """Serves both set-ups at one rate, then at the next, as far as time goes."""
    model = large_model(task)
    with tempfile.TemporaryDirectory(prefix="paper-") as folder:
        endpoint = f"ipc://{folder}/control"
        errors: list[str] = []
        mailbox, progress = Mailbox(), Progress()
        driver = threading.Thread(target=_drive, args=(task, endpoint, mailbox, errors), daemon=True)
        with torch.inference_mode():
            config = _config(model, endpoint, device_of(task))
            worker = make_ready(config, model.loaded)
            link = SchedulerLink(endpoint, worker.hello, mailbox, progress)
            link.start()
            driver.start()
            try:
                Engine(mailbox, ForgivingExecutor(worker.executor, worker.hello.model.num_layers), link, progress).run()
            finally:
                link.close()
    if errors:
        raise StepFailed("\n".join(errors))


def _config(model: LargeModel, endpoint: str, device: str) -> WorkerConfig:
    return WorkerConfig(
        model=str(model.folder),
        control_endpoint=endpoint,
        load_format=LoadFormat.DUMMY,
        device=Device(device),
        kv_cache_gib=_CPU_CACHE_GIB if device == "cpu" else None,
        host_kv_gib=_CPU_CACHE_GIB if device == "cpu" else 4.0,
        served_model_names=(str(model.geometry),),
    )


def _drive(task: Task, endpoint: str, mailbox: Mailbox, errors: list[str]) -> None:
    """Measures set-up by set-up, and stops the worker in the end."""
    try:
        rates = _RATES[-1:] if task.is_rehearsal else _RATES
        points = [(rate, set_up) for rate in rates for set_up in _SET_UPS]
        for number, (rate, set_up) in enumerate(points):
            if error := _measure(task, endpoint, rate, set_up, task.left_s() / (len(points) - number)):
                errors.append(f"{set_up} at {rate:g}/s: {error}")
    finally:
        mailbox.put(Stop())


def _measure(task: Task, endpoint: str, rate: float, set_up: SetUp, seconds: float) -> str:
    """Runs a load in a process of its own; returns what went wrong, or nothing."""
    settings = {
        "endpoint": endpoint,
        "set_up": str(set_up),
        "rate": rate,
        "seconds": 4.0 if task.is_rehearsal else seconds,
        "most_tokens": 64 if task.is_rehearsal else 2048,
    }
    command = [sys.executable, "-m", "scripts.gpu_proof.steps.load", json.dumps(settings)]
    output = ""
    with subprocess.Popen(command, cwd=Path(ROOT), stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            output = line
    if process.returncode:
        return f"the load ended with code {process.returncode}; log.txt says why"
    task.report.figure(f"{set_up} at {rate:g}/s", **json.loads(output))
    return ""
