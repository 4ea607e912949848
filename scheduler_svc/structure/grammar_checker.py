"""Says whether the worker can follow a grammar, by having a child process try it: starts it, asks it, remembers.

Each grammar is tried once, however many requests have it. Knows nothing of requests.
"""

import asyncio
import hashlib
import logging
import os
import socket
import subprocess
import sys
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from scheduler_svc.errors import RETRY_S, ServiceError, jittered
from scheduler_svc.process import frames
from scheduler_svc.process.frames import Frame, FrameRefused

_log = logging.getLogger(__name__)

_CHILD = (sys.executable, "-B", "-m", "scheduler_svc.structure.grammar_child")
# What an interpreter needs to find its modules; keys and passwords stay here.
_ENVIRONMENT = frozenset(("HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "PYTHONPATH"))
_PART_BYTES = 1 << 16


class GrammarsUnavailable(ServiceError):
    """No grammar can be tried now."""

    status = grpc.StatusCode.UNAVAILABLE

    def __init__(self, reason: str) -> None:
        super().__init__(f"structures can't be checked now: {reason}")
        self.retry_after_s = jittered(RETRY_S)


@dataclass(frozen=True, slots=True)
class GrammarLimits:
    """What grammars may take.

    Attributes:
        cpu_s: Processor time of preparing one, and of its first step, in seconds. Others of its batch may wait for
            that in the worker.
        memory_bytes: Address space of the process that tries it, with the tokenizer.
        wait_s: Seconds after which a process that does not answer is given up.
        start_s: Seconds that it has to start, and to read the tokenizer.
        most_waiting: Grammars that may wait to be tried.
        most_remembered: Grammars whose answers are remembered.
    """

    cpu_s: float = 0.25
    memory_bytes: int = 2 << 30
    wait_s: float = 15.0
    start_s: float = 60.0
    most_waiting: int = 256
    most_remembered: int = 4096


DEFAULT_LIMITS = GrammarLimits()


class GrammarChecker:
    """Tries grammars with one model's tokenizer, one after the other.

    Args:
        tokenizer_json: Content of tokenizer.json.
        vocab_size: The model's token ids are below this.
        end_token_ids: Tokens that end a text that is whole.
        limits: What grammars may take.
    """

    def __init__(
        self,
        tokenizer_json: bytes,
        vocab_size: int,
        end_token_ids: Sequence[int],
        limits: GrammarLimits = DEFAULT_LIMITS,
    ) -> None:
        self._tokenizer_json = tokenizer_json
        self._facts: Frame = {"vocab_size": vocab_size, "end_token_ids": list(end_token_ids)}
        self._limits = limits
        self._child: _Child | None = None
        self._turn = asyncio.Lock()
        self._known: OrderedDict[bytes, str] = OrderedDict()
        self._under_way: dict[bytes, asyncio.Task[str]] = {}

    @property
    def pid(self) -> int | None:
        """The child's process id; None while none runs."""
        return None if self._child is None else self._child.process.pid

    async def problem(self, grammar: str) -> str:
        """Returns why the worker can't follow a grammar; empty if it can.

        Raises:
            GrammarsUnavailable: It can't be tried now.
        """
        key = hashlib.sha256(grammar.encode()).digest()
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        if key not in self._under_way:
            num_waiting, most = len(self._under_way), self._limits.most_waiting
            if num_waiting >= most:
                raise GrammarsUnavailable(f"{num_waiting} others wait to be, allowed are {most}")
            task = self._under_way[key] = asyncio.ensure_future(self._try(key, grammar))
            task.add_done_callback(lambda done: self._tried(key, done))
        # Whoever leaves meanwhile leaves the others their answer, and the child its order.
        return await asyncio.shield(self._under_way[key])

    def _tried(self, key: bytes, task: "asyncio.Task[str]") -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # it is told to those who wait, if anybody still does

    async def _try(self, key: bytes, grammar: str) -> str:
        async with self._turn:
            problem = str((await self._exchange({"grammar": grammar}, self._limits.wait_s))["problem"])
        self._known[key] = problem
        if len(self._known) > self._limits.most_remembered:
            self._known.popitem(last=False)
        return problem

    async def _exchange(self, frame: Frame, wait_s: float) -> Frame:
        try:
            child = await self._started()
            return await asyncio.wait_for(child.exchange(frame), wait_s)
        except (TimeoutError, EOFError, OSError, FrameRefused) as error:
            self.close()
            _log.error("grammar_process_lost error=%r", type(error).__name__)
            raise GrammarsUnavailable(f"the process that does is gone ({type(error).__name__})") from None
        except BaseException:
            self.close()
            raise

    async def _started(self) -> "_Child":
        """Returns the child, which has read the tokenizer."""
        if self._child is None:
            self._child = _Child(self._tokenizer_json, self._limits)
            answer = await asyncio.wait_for(self._child.exchange(self._facts), self._limits.start_s)
            if "broken" in answer:
                raise GrammarsUnavailable(f"the model's tokenizer is of no use for that: {answer['broken']}")
        return self._child

    def close(self) -> None:
        """Ends the child; it is started again when it is asked the next time."""
        if self._child is not None:
            self._child.end()
            self._child = None


class _Child:
    """One life of the process, and the socket that is its standard input and output; ended when nobody holds it."""

    def __init__(self, tokenizer_json: bytes, limits: GrammarLimits) -> None:
        self._socket, theirs = socket.socketpair()
        tokenizer = os.memfd_create("tokenizer", 0)  # it may be larger than a frame
        environment = {name: value for name, value in os.environ.items() if name in _ENVIRONMENT}
        try:
            with theirs, os.fdopen(tokenizer, "wb") as file:
                file.write(tokenizer_json)
                file.flush()
                told = (os.getpid(), limits.memory_bytes, limits.cpu_s, tokenizer)
                self.process = subprocess.Popen(
                    [*_CHILD, *map(str, told)],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    process_group=0,
                    env=environment,
                    pass_fds=(tokenizer,),
                )
        except BaseException:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self.end = weakref.finalize(self, _end, self.process, self._socket)

    async def exchange(self, frame: Frame) -> Frame:
        """Sends a frame, and returns the next that comes; raises EOFError where none does."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._socket, frames.written(frame))
        received, num_bytes = bytearray(), frames.HEAD_BYTES
        while len(received) < num_bytes:
            part = await loop.sock_recv(self._socket, _PART_BYTES)
            if not part:
                raise EOFError
            received += part
            if len(received) >= frames.HEAD_BYTES:
                num_bytes = frames.HEAD_BYTES + frames.body_bytes(received[: frames.HEAD_BYTES])
        return frames.read(bytes(received[frames.HEAD_BYTES :]))


def _end(process: "subprocess.Popen[bytes]", connection: socket.socket) -> None:
    connection.close()
    process.kill()
    process.wait()
