"""A process that runs steps, and whose crash or hang costs its own step alone.

A step's figures come as lines of JSON over a pipe of their own; what it and its children print goes to the log. Once its time is
over it says where it stands (a traceback of every thread goes to the log) and is ended, with all processes that it started.
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
from pathlib import Path
from typing import Any

from scripts.gpu_proof.record import CRASHED, FAILED, PASSED, TIMED_OUT, Log

REPORT_FD = "QLLM_PROOF_FD"
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_TRACEBACK_S = 1.0
_EXIT_S = 5.0
_KILL_ROUNDS = 100
_PAUSE_S = 0.05
_LAST_LINES = 4

Message = Mapping[str, Any]


def adopt_orphans() -> None:
    """Has processes whose parents end become children of this one, so that none of them can stay behind."""
    _control_process(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent() -> None:
    """Has this process killed when the thread that started it ends, however that ends."""
    _control_process(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _control_process(option: int, value: int) -> None:
    """Linux's prctl; does nothing where there is none."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


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
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(writing,),
            env={**environment, REPORT_FD: str(writing)},
            cwd=directory,
        )
        os.close(writing)
        self._threads = [
            threading.Thread(target=self._read_messages, args=(reading,), daemon=True),
            threading.Thread(target=self._copy_output, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def run(self, request: Mapping[str, Any], box_s: float, take: Callable[[Message], None]) -> tuple[str, str]:
        """Runs a step.

        Args:
            request: Which, and how.
            box_s: Seconds after which it is ended, and the process with it.
            take: Given each message but the last.

        Returns:
            How it ended, in the words of `record`, and why it did not pass.
        """
        deadline_s = time.monotonic() + box_s
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(json.dumps(request).encode() + b"\n")
            self._stdin.flush()
        while True:
            try:
                message = self._messages.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                self._say_where_it_stands()
                self.kill()
                return TIMED_OUT, f"it had not ended after {box_s:.0f} s; log.txt says where every thread stood"
            if message is None:
                return CRASHED, self._how_it_ended()
            if "end" in message:
                return (PASSED, "") if message["end"] == PASSED else (FAILED, str(message["error"]))
            take(message)

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

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

    def kill(self) -> None:
        """Ends it, and every process that it started."""
        self._process.kill()
        self._process.wait()
        for _ in range(_KILL_ROUNDS):  # what one round ends may have started others meanwhile
            left = [pid for pid in _descendants(os.getpid()) if pid != self._process.pid]
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)  # ours since their parents ended: nobody else collects them
            if not left:
                break
            time.sleep(_PAUSE_S)
        for thread in self._threads:
            thread.join(_EXIT_S)  # nobody holds the other ends of their pipes any more
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()

    @property
    def _stdin(self) -> Any:
        return self._process.stdin

    def _say_where_it_stands(self) -> None:
        self._process.send_signal(signal.SIGUSR1)
        time.sleep(_TRACEBACK_S)

    def _how_it_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_S)
        code = self._process.poll()
        self.kill()
        how = "closed its pipe" if code is None else f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        return f"its process ended: {how}; the log's last lines:\n{self._log.last_lines(_LAST_LINES)}"

    def _read_messages(self, reading: int) -> None:
        with open(reading, "rb") as lines:
            for line in lines:
                self._messages.put(json.loads(line))
        self._messages.put(None)

    def _copy_output(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            while data := os.read(output.fileno(), 1 << 16):
                self._log.write(data)


def _descendants(pid: int) -> Iterator[int]:
    """Processes that descend from one, by /proc; a parent comes before its children."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    waiting = list(children.get(pid, ()))
    while waiting:
        found = waiting.pop()
        waiting += children.get(found, ())
        yield found
