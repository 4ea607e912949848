"""A process that runs steps, and whose crash or hang costs its own step alone.

    start ─▶ "ready" ─▶ request: a step ─▶ figures, notes … ─▶ its end ─▶ the next request
                        └────────────── its time box ───────────────┘

A step's figures come as lines of JSON over a pipe of their own; what it and its children print goes to the log. Once
its time is over, it and all processes that it started are aborted, which leaves a traceback of every thread in the log,
and then killed.
"""

import contextlib
import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from scripts.gpu_proof.record import CRASHED, FAILED, PASSED, TIMED_OUT, Log

REPORT_FD = "QLLM_PROOF_FD"
_TOKEN = "QLLM_PROOF_TOKEN"  # tells whose a process is: "pid of the proof:number of the step process"
_PR_SET_PDEATHSIG = 1
_START_S = 60.0
_TRACEBACK_S = 1.0
_EXIT_S = 5.0
_LAST_WORDS_S = 0.5
_PAUSE_S = 0.05
_LAST_LINES = 4
_numbers = count(1)

Message = Mapping[str, Any]


def end_with_parent() -> None:
    """Has this process killed when the thread that started it ends, however that ends; does nothing except on Linux."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_leftovers() -> None:
    """Ends what proofs that are gone have left running: it would hold memory of the device."""
    for pid, token in _marked():
        if not Path(f"/proc/{token.partition(':')[0]}").exists():
            _send(pid, signal.SIGKILL)


class StepProcess:
    """A fresh process that waits for steps to run.

    Args:
        environment: Its environment.
        directory: Its working directory.
        log: Where what it prints goes.
        module: What it runs.
    """

    def __init__(
        self, environment: Mapping[str, str], directory: Path, log: Log, module: str = "scripts.gpu_proof.child"
    ) -> None:
        reading, writing = os.pipe()
        self._log = log
        self._token = f"{os.getpid()}:{next(_numbers)}"
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._is_ready = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(writing,),
            env={**environment, REPORT_FD: str(writing), _TOKEN: self._token, "PYTHONFAULTHANDLER": "1"},
            cwd=directory,
        )
        os.close(writing)
        self._threads = [
            threading.Thread(target=self._read_messages, args=(reading,), daemon=True),
            threading.Thread(target=self._copy_output, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

    def run(self, request: Mapping[str, Any], box_s: float, take: Callable[[Message], None]) -> tuple[str, str]:
        """Runs a step.

        Args:
            request: Which, and how.
            box_s: Seconds after which it is ended, and the process with it.
            take: Given each message but the last.

        Returns:
            How it ended, in the words of `record`, and why it did not pass.
        """
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(json.dumps(request).encode() + b"\n")
            self._stdin.flush()
        # A fresh process's time begins when it listens: how long Python takes to start is no matter of the step's.
        deadline_s = time.monotonic() + (box_s if self._is_ready else _START_S)
        while True:
            try:
                message = self._messages.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                self._say_where_it_stands()
                return TIMED_OUT, f"it had not ended after {box_s:.0f} s; log.txt says where every thread stood" + (
                    self.kill()
                )
            if message is None:
                return CRASHED, self._how_it_ended()
            if "ready" in message:
                self._is_ready = True
                deadline_s = time.monotonic() + box_s
            elif "end" in message:
                if message["end"] == PASSED:
                    return PASSED, ""
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_LAST_WORDS_S)  # it ends by itself where it has lost its device
                return FAILED, str(message["error"])
            else:
                take(message)

    def is_alive(self) -> bool:
        """Whether it can run another step."""
        return self._process.poll() is None

    def close(self) -> None:
        """Lets it end by itself, and ends it if it does not."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_S)
        self.kill()

    def kill(self) -> str:
        """Ends it, and every process it started; returns what is to be said of those that can't be ended, if any."""
        deadline_s = time.monotonic() + _EXIT_S
        self._process.kill()
        while (left := list(self._own_pids())) and time.monotonic() < deadline_s:
            for pid in left:  # what one round ends may have started others meanwhile
                _send(pid, signal.SIGKILL)
            time.sleep(_PAUSE_S)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(_PAUSE_S, deadline_s - time.monotonic()))
        if not left:
            for thread in self._threads:
                thread.join(_EXIT_S)  # nobody holds the other ends of their pipes any more
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        return f"; these processes could not be ended: {left}" if left else ""

    @property
    def _stdin(self) -> Any:
        return self._process.stdin

    def _own_pids(self) -> Iterator[int]:
        return (pid for pid, token in _marked() if token == self._token)

    def _say_where_it_stands(self) -> None:
        """Aborts all its processes; Python's fault handler then writes where every thread stood."""
        for pid in self._own_pids():
            _send(pid, signal.SIGABRT)
        time.sleep(_TRACEBACK_S)

    def _how_it_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_S)
        code = self._process.poll()
        complaint = self.kill()
        how = "closed its pipe" if code is None else f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        last_lines = self._log.last_lines(_LAST_LINES)
        return f"its process ended: {how}{complaint}; the log's last lines:\n{last_lines}"

    def _read_messages(self, reading: int) -> None:
        try:
            with open(reading, "rb") as lines:
                for line in lines:
                    self._messages.put(json.loads(line))
        except ValueError:  # a line that a crash has cut off
            pass
        finally:
            self._messages.put(None)

    def _copy_output(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            while data := os.read(output.fileno(), 1 << 16):
                self._log.write(data)


def _marked() -> Iterator[tuple[int, str]]:
    """Processes that steps have started, whoever their parents are now; their environments say whose they are."""
    name = f"{_TOKEN}=".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                continue
            values = (entry / "environ").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        token = next((value[len(name) :] for value in values if value.startswith(name)), b"")
        if token:
            yield int(entry.name), token.decode()


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
