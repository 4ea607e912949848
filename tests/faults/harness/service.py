"""The service under test: starts its real processes, says where they are, and starts them again when they are gone.

    supervised   scheduler --starts--> worker                   as --spawn-worker does
    apart        scheduler <--proxy--> worker                   both started here, so that their channel can be cut

A scheduler that ended is started again only when told to, on the same port, as an operator's supervisor would.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc
from qllm.v1 import admin_pb2, admin_pb2_grpc

from tests.faults.harness.clients import CHANNEL_OPTIONS
from tests.faults.harness.job_store import StoreOfJobs
from tests.faults.harness.process_usage import children_of, is_alive, is_worker
from tests.faults.harness.proxy import Proxy
from tests.support.channel.control_channel import ROOT, python_path
from tests.support.service.live_service import free_port

DEMO_MODEL = ROOT / "demo" / "model"
START_S = 300.0
_POLL_S = 0.01
_JOINED = re.compile(r"worker_ready epoch=[0-9a-f]+ .*?\bpid=(\d+)")
# A prompt of 1,000 tokens takes some 200 ms, a decode of a few sequences 30 ms; host memory holds all of the cache.
SIMULATED_TABLE = {
    "name": "faults",
    "source": "tests/faults",
    "num_layers": 8,
    "num_experts": 8,
    "num_experts_per_token": 2,
    "max_model_len": 2048,
    "num_blocks": 160,
    "num_host_blocks": 320,
    "attention_us": {"fixed": 300, "per_token": 15, "per_pair": 0},
    "expert_us": {"fixed": 300, "per_token": 2},
    "head_us": {"fixed": 30, "per_row": 3},
}
_OF_DEMO = ("--dtype", "float32", "--threads", "1", "--num-blocks", "160", "--host-kv-gib", "0.2")


@dataclass(frozen=True, slots=True)
class Settings:
    """How the service is started.

    Attributes:
        simulated: Whether its worker runs no model but takes the times of a table.
        is_apart: Whether the worker is started by itself, behind a proxy.
        options: Further options of the scheduler.
        worker_options: Further options of the worker.
    """

    simulated: bool = True
    is_apart: bool = False
    options: tuple[str, ...] = ("--hang-timeout-s", "2")
    worker_options: tuple[str, ...] = ()


class Service:
    """A running service; use it as an async context.

    Args:
        settings: How it is started.
        store: Where its jobs are; None: it keeps none.

    Attributes:
        log_file: What its processes said, of all their lives.
        control_proxy: Stands between scheduler and worker; None where the scheduler starts its worker.
    """

    def __init__(self, settings: Settings, store: StoreOfJobs | None = None) -> None:
        self._settings = settings
        self.store = store
        self._port = free_port()
        self._log_begin = 0
        self._stack = AsyncExitStack()
        self._scheduler: subprocess.Popen[bytes] | None = None
        self._worker: subprocess.Popen[bytes] | None = None
        self.control_proxy: Proxy | None = None

    async def __aenter__(self) -> Self:
        """Starts it, and waits until it serves."""
        directory = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="qllm-faults-", dir="/tmp"))
        self._directory = Path(directory)
        self.log_file = self._directory / "log"
        self._log = self._stack.enter_context(self.log_file.open("ab"))
        channel = grpc.aio.insecure_channel(self.address, options=CHANNEL_OPTIONS)
        self._admin = admin_pb2_grpc.AdminServiceStub(channel)
        self._stack.push_async_callback(channel.close)
        self._stack.callback(self._kill)
        try:
            if self._settings.is_apart:
                await self._start_proxy()
                self._start_worker()
            await self.start_scheduler()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ends it, in good order if that is possible."""
        if self._scheduler is not None and self._scheduler.poll() is None:
            self.signal_scheduler(signal.SIGCONT)
            self.signal_scheduler(signal.SIGTERM)
            await until(lambda: not self.is_running, 60)
        await self._stack.aclose()

    @property
    def address(self) -> str:
        """Where it serves gRPC, in every life."""
        return f"127.0.0.1:{self._port}"

    @property
    def log(self) -> str:
        """Everything that its processes said."""
        return self.log_file.read_text(errors="replace")

    @property
    def log_since_start(self) -> str:
        """What its processes said since the scheduler was started last."""
        with self.log_file.open(errors="replace") as log:
            log.seek(self._log_begin)
            return log.read()

    # ---- its processes

    @property
    def is_running(self) -> bool:
        """Whether there is a scheduler."""
        return self._scheduler is not None and self._scheduler.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How the last scheduler ended; None while it runs."""
        return None if self._scheduler is None else self._scheduler.poll()

    @property
    def scheduler_pid(self) -> int:
        """The scheduler, or the one that there was last."""
        assert self._scheduler is not None
        return self._scheduler.pid

    def worker_pid(self) -> int | None:
        """Returns the worker that serves, else one that is there; None if there is none."""
        there = [self._worker.pid] if self._worker is not None else self._worker_children()
        there = [pid for pid in there if is_alive(pid)]
        served = [int(pid) for pid in _JOINED.findall(self.log)]
        return served[-1] if served and served[-1] in there else next(iter(there), None)

    def signal_scheduler(self, number: signal.Signals) -> None:
        """Sends the scheduler a signal."""
        assert self._scheduler is not None
        self._scheduler.send_signal(number)

    async def start_scheduler(self) -> None:
        """Starts a scheduler where there is none, and waits until it serves."""
        self.begin_scheduler()
        await self.wait_until_serving()

    def begin_scheduler(self) -> None:
        """Starts a scheduler where there is none."""
        assert not self.is_running
        command = [sys.executable, "-m", "scheduler_svc", "--grpc-port", str(self._port), *self._settings.options]
        command += () if self.store is None else self.store.options
        if self._settings.is_apart:
            command += ["--control-endpoint", f"ipc://{self._directory}/c/s"]
        else:
            command += ["--model", str(DEMO_MODEL), "--spawn-worker", "--", *self._worker_options()]
        self._log_begin = self.log_file.stat().st_size
        self._scheduler = self._start(command)

    async def wait_until_serving(self, bound_s: float = START_S) -> None:
        """Waits until a worker is ready; raises TimeoutError, or ProcessLookupError if the scheduler ends before."""
        deadline_s = time.monotonic() + bound_s
        while (info := await self.info()) is None or info.worker_state != admin_pb2.WORKER_STATE_READY:
            if not self.is_running:
                raise ProcessLookupError(f"the scheduler ended with {self.exit_code}:\n{self.log[-3000:]}")
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"not ready within {bound_s:.0f} s:\n{self.log[-3000:]}")
            await asyncio.sleep(_POLL_S)

    def _start(self, command: list[str]) -> "subprocess.Popen[bytes]":
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": self._log}
        return subprocess.Popen(command, cwd=ROOT, env=python_path(), start_new_session=True, **streams)

    def _start_worker(self) -> None:
        endpoint = f"ipc://{self._directory}/p/s"
        command = [sys.executable, "-m", "gpu_worker", "--control-endpoint", endpoint, "--model", str(DEMO_MODEL)]
        self._worker = self._start([*command, *self._worker_options()])

    def _worker_options(self) -> list[str]:
        if not self._settings.simulated:
            return [*_OF_DEMO, *self._settings.worker_options]
        table = self._directory / "table.json"
        table.write_text(json.dumps(SIMULATED_TABLE))
        return ["--simulated", str(table), *self._settings.worker_options]

    async def _start_proxy(self) -> None:
        sockets = self._directory / "p"
        sockets.mkdir(mode=0o700)
        proxy = Proxy(f"{sockets}/s", f"{self._directory}/c/s")
        self.control_proxy = await self._stack.enter_async_context(proxy)

    def _worker_children(self) -> list[int]:
        return [pid for pid in children_of(self.scheduler_pid) if is_worker(pid)] if self._scheduler else []

    def _kill(self) -> None:
        """Ends what is left, whatever state it is in."""
        for process in (self._scheduler, self._worker):
            if process is None:
                continue
            for pid in (*children_of(process.pid), process.pid):
                _kill_if_there(pid)
            process.wait()

    # ---- what it says

    async def info(self, timeout_s: float = 1.0) -> admin_pb2.GetServerInfoResponse | None:
        """Returns what it says of itself; None if it does not answer."""
        try:
            return await self._admin.GetServerInfo(admin_pb2.GetServerInfoRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError:
            return None

    async def loads(self, *, check: bool = False, timeout_s: float = 10.0) -> admin_pb2.GetLoadsResponse | None:
        """Returns its loads, with a check of both sides' books if asked for; None if it does not answer."""
        try:
            return await self._admin.GetLoads(admin_pb2.GetLoadsRequest(check=check), timeout=timeout_s)
        except grpc.aio.AioRpcError:
            return None

    def new_lines(self) -> Iterator[list[str]]:
        """Yields the lines that were logged since the last time, for ever."""
        with self.log_file.open(errors="replace") as log:
            log.seek(0, os.SEEK_END)
            while True:
                yield log.readlines()


async def until(is_true: Callable[[], object], bound_s: float, poll_s: float = _POLL_S) -> bool:
    """Waits until something is true; returns False if that takes longer than the bound."""
    deadline_s = time.monotonic() + bound_s
    while not is_true():
        if time.monotonic() > deadline_s:
            return False
        await asyncio.sleep(poll_s)
    return True


def _kill_if_there(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
