"""Keeps a local worker process alive: starts it, restarts it, ends it.

    start --first Hello--> serving --exit--> wait (0.5 s, 1 s, ... 10 s) --> start ...
      │                                                   └── no descriptors, processes or memory left: again in 1 s
      ├── exit code 2 or 3 before the first Hello of all: the worker refuses what it was told, so the service gives up
      └── nothing done for `standstill_s` while it does not serve: ended, as by an exit

Knows nothing of what the worker does: its owner tells it when a worker joined, waits, was lost or hung, from the link's
events. While it serves, whether it gets on is the link's to say; before and after that, this one looks whether its
process does anything at all. The worker gets a process group of its own, so that Ctrl-C reaches it through its
supervisor only, and `--parent-pid`, so that it dies with it. What a worker would be told can be checked without
starting one.
"""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence

from scheduler_svc.process.activity import Standstill, counts_of
from scheduler_svc.process.ancestry import is_or_descends_from
from scheduler_svc.process.group import ended_with_its_group, kill_group
from scheduler_svc.process.rarely import Rarely

_log = logging.getLogger(__name__)

_WORKER = (sys.executable, "-m", "gpu_worker")
_REFUSED_EXIT_CODES = (2, 3)
_FIRST_BACKOFF_S = 0.5
_MAX_BACKOFF_S = 10.0
# What the system may have again in a while.
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
_SHORTAGE_PAUSE_S = 1.0
_MAX_FAILED_STARTS = 5
_LOOKS = 20  # so often within `standstill_s` it is looked whether a worker does anything
_DTYPES = ("float32", "bfloat16", "float16")  # what a worker's --dtype may name besides auto
_REFUSAL = "qllm-worker: "  # begins the one line in which a worker says why it refuses what it was told
_LONGEST_LINE_BYTES = 1 << 16

# The scheduler's own keys, its config file, and what leads to its clients' keys and to the store of their jobs.
_NOT_THE_WORKERS = ("QLLM_CURVE_", "QLLM_CONFIG", "QLLM_API_KEY", "QLLM_STATE_", "QLLM_TLS_", "PGPASS")
# On a CPU, weights are read faster from huge pages, and what a step frees the next one takes: giving memory back to
# the system between two steps costs page faults. Read by the C library before a process begins, so the worker can't
# set it itself.
_MALLOC = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432"
    ":glibc.malloc.trim_threshold=8589934592:glibc.malloc.top_pad=67108864"
)


class WorkerRefused(Exception):
    """The worker can't start with what it was told; the message is the worker's own."""


class WorkerSupervisor:
    """Supervises one worker process.

    Args:
        control_endpoint: Where the worker finds the scheduler.
        model: Directory or hub id of the model.
        options: Further options of the worker, as on its command line.
        command: The program that runs the worker.
        stop_grace_s: Seconds that the worker has to end in good order, and again after SIGTERM.
        standstill_s: Seconds for which a worker that does not serve may do nothing at all.
    """

    def __init__(
        self,
        control_endpoint: str,
        model: str,
        options: Sequence[str] = (),
        *,
        command: Sequence[str] = _WORKER,
        stop_grace_s: float = 3.0,
        standstill_s: float = 60.0,
    ) -> None:
        self._arguments = [*command, *_told(control_endpoint, model, options), "--parent-pid", str(os.getpid())]
        self._settled: tuple[str, ...] = ()
        self._stop_grace_s = stop_grace_s
        self._standstill_s = standstill_s
        self._standstill = Standstill()
        self._process: Process | None = None
        self._ever_joined = False
        self._joined = False
        self._serves = False
        self._closed = asyncio.Event()
        self._refusal = ""
        self._last_line = ""
        self._rarely = Rarely()

    @property
    def pid(self) -> int | None:
        """The worker's process id; None while none runs."""
        return None if self._process is None else self._process.pid

    def owns(self, pid: int) -> bool:
        """Whether a process is the worker that is running, or was started by it."""
        return self.pid is not None and is_or_descends_from(pid, self.pid)

    def keep_dtype(self, dtype: str) -> None:
        """Has all further workers compute in this type: a request that goes on with one should get the same tokens.

        A simulated worker computes in none.
        """
        if dtype in _DTYPES and not any(argument.partition("=")[0] == "--dtype" for argument in self._arguments):
            self._settled = ("--dtype", dtype)

    async def run(self) -> None:
        """Keeps a worker running until `close`; raises WorkerRefused when the very first start can't succeed."""
        backoff_s = _FIRST_BACKOFF_S
        num_failed_starts = 0
        try:
            while not self._closed.is_set():
                exit_code = await self._run_once()
                if self._closed.is_set():
                    return
                _log.error("worker_exited exit_code=%d joined=%s", exit_code, self._joined)
                num_failed_starts = 0 if self._joined else num_failed_starts + 1
                self._give_up_if_hopeless(exit_code, num_failed_starts)
                backoff_s = _FIRST_BACKOFF_S if self._joined else min(2 * backoff_s, _MAX_BACKOFF_S)
                await self._pause(backoff_s)
        finally:
            self._kill()

    def worker_joined(self) -> None:
        """Notes that the worker serves: whoever told so watches it from now on."""
        self._joined = self._ever_joined = self._serves = True

    def worker_waits(self) -> None:
        """Notes that the worker says that it stands by."""
        self._standstill.ends()

    def worker_lost(self) -> None:
        """Notes that the worker serves no more, if it did."""
        self._serves = False
        self._standstill.ends()

    def worker_hung(self) -> None:
        """Ends a worker that makes no progress; another is started."""
        _log.error("worker_killed pid=%s reason=hung", self.pid)
        self._kill()

    async def close(self) -> None:
        """Ends the worker: it has a while to go by itself (the owner sends Shutdown), then SIGTERM, then SIGKILL."""
        self._closed.set()
        if self._joined and await self._exited():  # one that has not joined yet hears no Shutdown
            return
        self._signal(signal.SIGTERM)
        if not await self._exited():
            _log.error("worker_killed pid=%s reason=did_not_stop", self.pid)
            self._kill()

    async def _run_once(self) -> int:
        self._joined = self._serves = False
        self._refusal = self._last_line = ""
        process = await self._start()
        if process is None:
            return 0
        self._process = process
        _log.info("worker_started pid=%d", process.pid)
        watching = asyncio.create_task(self._watch(process), name="worker-watch")
        try:
            if self._closed.is_set():  # closed while it was being started
                self._kill()
            with ended_with_its_group(process.pid):
                await self._forward(process)
                return await process.wait()
        finally:
            self._kill()
            self._process = None
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    async def _watch(self, process: Process) -> None:
        """Ends a worker that does not serve and does nothing: it was stopped, or hangs while it loads its model."""
        self._standstill.ends()
        while True:
            await asyncio.sleep(self._standstill_s / _LOOKS)
            if self._serves:
                self._standstill.ends()
            elif self._standstill.look(counts_of(process.pid)) >= _LOOKS and process.returncode is None:
                _log.error("worker_killed pid=%d reason='it did nothing for %g s'", process.pid, self._standstill_s)
                self._kill()

    async def _start(self) -> Process | None:
        """Starts the worker as soon as the system has room for it; returns None if that is not before `close`."""
        stdin, limit = asyncio.subprocess.DEVNULL, _LONGEST_LINE_BYTES
        while not self._closed.is_set():
            try:
                return await asyncio.create_subprocess_exec(
                    *self._arguments,
                    *self._settled,
                    stdin=stdin,
                    stderr=PIPE,
                    limit=limit,
                    process_group=0,
                    env=_environment(),
                )
            except OSError as error:
                if error.errno not in _SHORTAGES:
                    reason = f"the worker can't be started: {self._arguments[0]}: {error.strerror}"
                    raise WorkerRefused(reason) from error
                if self._rarely.is_due():
                    _log.error("worker_waits reason=%r (said once a minute)", error.strerror)
            await self._pause(_SHORTAGE_PAUSE_S)
        return None

    async def _pause(self, time_s: float) -> None:
        """Waits, at most until `close`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), time_s)

    async def _forward(self, process: Process) -> None:
        """Copies the worker's stderr to this process's, but for its refusal, which this one says in its own words."""
        stderr = process.stderr
        while stderr is not None:
            try:
                line = await stderr.readline()
            except ValueError:  # longer than the limit; asyncio has thrown it away
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            if text.startswith(_REFUSAL):
                self._refusal = text.removeprefix(_REFUSAL)
                continue
            if any(map(str.isalnum, text)):
                self._last_line = text.strip(" │")  # typer draws a box around what it says of an option
            sys.stderr.write(text + "\n")

    def _give_up_if_hopeless(self, exit_code: int, num_failed_starts: int) -> None:
        said = self._refusal or self._last_line or "it said nothing"
        if self._ever_joined:
            if self._refusal:
                _log.error("worker_refused reason=%r", self._refusal)
        elif exit_code in _REFUSED_EXIT_CODES:
            raise WorkerRefused(f"the worker refused to start (exit code {exit_code}): {said}")
        elif num_failed_starts >= _MAX_FAILED_STARTS:
            raise WorkerRefused(
                f"the worker ended {num_failed_starts} times before it was ready (exit code {exit_code}): {said}"
            )

    async def _exited(self) -> bool:
        """Waits for the worker's end; returns False if it is still there after the grace time."""
        if self._process is None:
            return True
        try:
            await asyncio.wait_for(self._process.wait(), self._stop_grace_s)
        except TimeoutError:
            return False
        return True

    def _kill(self) -> None:
        """Ends it, and all that it has started in its group."""
        if self._process is not None and self._process.returncode is None:
            kill_group(self._process.pid)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            # Its own send_signal would reap one that has ended, and asyncio lose its exit code.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


def check_worker(control_endpoint: str, model: str, options: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
    """Lets the worker's own --check-config check what a supervised worker would be told; returns how that ended."""
    # An option at the end that lacks its value would take what stands behind it for one.
    command = [*_WORKER, "--check-config", *_told(control_endpoint, model, options)]
    stdin = subprocess.DEVNULL
    return subprocess.run(command, stdin=stdin, capture_output=True, text=True, env=_environment(), check=False)


def _told(control_endpoint: str, model: str, options: Sequence[str]) -> tuple[str, ...]:
    return ("--control-endpoint", control_endpoint, "--model", model, *options)


def _environment() -> dict[str, str]:
    """Returns the environment less what is not the worker's, with `_MALLOC` unless set."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_THE_WORKERS)}
    return {"GLIBC_TUNABLES": _MALLOC, **own}
