"""The paper's point: what a latency-sensitive request waits for under fcfs, and under qllm that stops at experts.

This process is the worker, so that its model is made once; the schedulers, one after another,
and the load are other processes.

    this process: worker ◀──ZeroMQ── scheduler fcfs, then qllm, then … ◀──gRPC── load: rate 8, then rate 2

Source: arXiv 2503.09304, evaluation.
"""

import json
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from qllm.client.bench.set_ups import SetUpName

from gpu_worker.channel.codec import encode_hello
from gpu_worker.channel.engine import Engine
from gpu_worker.channel.link import SchedulerLink
from gpu_worker.channel.mailbox import Mailbox, Progress, Stop
from gpu_worker.execution.forgiving import ForgivingExecutor
from gpu_worker.machine.process import spare_the_engine
from gpu_worker.settings import Device, LoadFormat, WorkerConfig
from gpu_worker.startup.prepare import make_ready, set_threads
from scripts.gpu_proof.child import StepFailed, Task
from scripts.gpu_proof.packages import ROOT
from scripts.gpu_proof.step_process import end_with_parent
from scripts.gpu_proof.steps.model import LargeModel, device_of, large_model

_RATES = (8.0, 2.0)  # where set-ups differ most comes first
_SET_UPS = (SetUpName.FCFS, SetUpName.EXPERT)
_CPU_CACHE_GIB = 0.25
_NUM_IDLE = 3
# Of the time of one load: a scheduler's start and end, requests for warmth and on the idle
# service; warm-up; window; drain.
_OTHER_S = 12.0
_WARM_UP_S = 3.0
_SHORTEST_WINDOW_S = 8.0
_LONGEST_WINDOW_S = 60.0
_DRAIN_SHARE = 0.5  # of the window


def run(task: Task) -> None:
    """Serves both set-ups at one rate, then at the next, as far as time goes."""
    model = large_model(task)
    with tempfile.TemporaryDirectory(prefix="paper-") as folder:
        mailbox, progress = Mailbox(), Progress()
        experiment = _Experiment(task, Path(folder), mailbox)
        config = _config(model, experiment.endpoint, device_of(task))
        set_threads(config)
        with torch.inference_mode():
            worker = make_ready(config, model.loaded)
            spare_the_engine()
            link = SchedulerLink(experiment.endpoint, encode_hello(worker.hello), mailbox, progress)
            link.start()
            driver = threading.Thread(target=experiment.run, daemon=True)
            driver.start()
            try:
                Engine(mailbox, ForgivingExecutor(worker.executor, worker.hello.model.num_layers), link, progress).run()
            finally:
                link.close()
            driver.join()
    if experiment.errors:
        raise StepFailed("\n".join(experiment.errors))


def _config(model: LargeModel, endpoint: str, device: str) -> WorkerConfig:
    return WorkerConfig(
        model=str(model.folder),
        control_endpoint=endpoint,
        load_format=LoadFormat.DUMMY,
        device=Device(device),
        kv_memory=f"{_CPU_CACHE_GIB}GiB" if device == "cpu" else None,
        host_kv_gib=_CPU_CACHE_GIB if device == "cpu" else 4.0,
        served_model_names=(str(model.geometry),),
    )


@dataclass(slots=True)
class _Experiment:
    """The loads, one after another, each in a process of its own.

    Attributes:
        task: The step's.
        folder: Where the socket and the results lie.
        mailbox: The worker's, which is told to stop in the end.
        errors: What went wrong.
    """

    task: Task
    folder: Path
    mailbox: Mailbox
    errors: list[str] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        """Where the worker looks for schedulers."""
        return f"ipc://{self.folder}/control"

    def run(self) -> None:
        """Measures rate by rate, and stops the worker in the end, whatever happens."""
        try:
            rates = _RATES[:1] if self.task.is_rehearsal else _RATES
            for number, rate in enumerate(rates):
                self._compare(rate, self.task.left_s() / (len(rates) - number), num_idle=0 if number else _NUM_IDLE)
        except Exception as error:
            self.errors.append(f"{type(error).__name__}: {error}")
        finally:
            self.mailbox.put(Stop())

    def _compare(self, rate: float, seconds: float, num_idle: int) -> None:
        """Gives all set-ups the same window at one rate."""
        fitting_s = (seconds / len(_SET_UPS) - _OTHER_S - _WARM_UP_S) / (1 + _DRAIN_SHARE)
        window_s = 2.0 if self.task.is_rehearsal else min(fitting_s, _LONGEST_WINDOW_S)
        if window_s < _SHORTEST_WINDOW_S and not self.task.is_rehearsal:
            self.task.report.note(
                f"rate {rate:g} was left out: {seconds:.0f} s do not suffice for {len(_SET_UPS)} set-ups"
            )
            return
        for set_up in _SET_UPS:
            self._measure(rate, set_up, window_s, num_idle if set_up is _SET_UPS[0] else 0)

    def _measure(self, rate: float, set_up: SetUpName, window_s: float, num_idle: int) -> None:
        result = self.folder / "result.json"
        result.unlink(missing_ok=True)
        settings: dict[str, Any] = {
            "endpoint": self.endpoint,
            "set_up": str(set_up),
            "rate": rate,
            "num_idle": num_idle,
            "warm_up_s": 0.5 if self.task.is_rehearsal else _WARM_UP_S,
            "window_s": window_s,
            "drain_s": window_s * _DRAIN_SHARE,
            "most_tokens": 16 if self.task.is_rehearsal else 2048,
        }
        command = [sys.executable, "-m", "scripts.gpu_proof.steps.load", json.dumps(settings), str(result)]
        process = subprocess.Popen(command, cwd=ROOT, preexec_fn=end_with_parent)
        try:
            code = process.wait(self.task.left_s() + _OTHER_S)  # the step's box ends what takes longer still
        except subprocess.TimeoutExpired:
            process.terminate()
            self.errors.append(f"{set_up} at {rate:g}/s: it had not ended when the step's time was over")
            return
        finally:
            process.wait()
        if code or not result.exists():
            self.errors.append(f"{set_up} at {rate:g}/s: the load ended with code {code}; log.txt says why")
            return
        figures = json.loads(result.read_text())
        self.task.report.figure(f"{set_up} at {rate:g}/s", **figures)
        if not figures["ls"]:
            self.errors.append(f"{set_up} at {rate:g}/s: no LS request came within the window")
