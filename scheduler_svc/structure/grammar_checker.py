"""Says whether the worker can follow a grammar, by having a child process try it: starts it, asks it, remembers.

Each grammar is tried once, however many requests have it. Knows nothing of requests.
"""

import asyncio
import hashlib
import logging
import os
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import grpc

from scheduler_svc.errors import RETRY_S, ServiceError, jittered
from scheduler_svc.process.frames import Frame, FrameRefused
from scheduler_svc.process.limited_child import LimitedChild, python_module

_log = logging.getLogger(__name__)

_CHILD = python_module("scheduler_svc.structure.grammar_child")


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
        self._child: LimitedChild | None = None
        self._turn = asyncio.Lock()
        self._known: OrderedDict[bytes, str] = OrderedDict()
        self._under_way: dict[bytes, asyncio.Task[str]] = {}

    @property
    def pid(self) -> int | None:
        """The child's process id; None while none runs."""
        return None if self._child is None else self._child.pid

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
            problem = str((await self._exchange({"grammar": grammar}))["problem"])
        self._known[key] = problem
        if len(self._known) > self._limits.most_remembered:
            self._known.popitem(last=False)
        return problem

    async def _exchange(self, frame: Frame) -> Frame:
        try:
            child = await self._started()
            return await asyncio.wait_for(child.exchange(frame), self._limits.wait_s)
        except (TimeoutError, EOFError, OSError, FrameRefused) as error:
            self.close()
            _log.error("grammar_process_lost error=%r", type(error).__name__)
            raise GrammarsUnavailable(f"the process that does is gone ({type(error).__name__})") from None
        except BaseException:
            self.close()
            raise

    async def _started(self) -> LimitedChild:
        """Returns the child, which has read the tokenizer."""
        if self._child is None:
            self._child = _child_of(self._tokenizer_json, self._limits)
            answer = await asyncio.wait_for(self._child.exchange(self._facts), self._limits.start_s)
            if "broken" in answer:
                raise GrammarsUnavailable(f"the model's tokenizer is of no use for that: {answer['broken']}")
        return self._child

    def close(self) -> None:
        """Ends the child; it is started again when it is asked the next time."""
        if self._child is not None:
            self._child.end()
            self._child = None


def _child_of(tokenizer_json: bytes, limits: GrammarLimits) -> LimitedChild:
    """Starts a child that can read the tokenizer, which may be larger than a frame."""
    with _unnamed_file() as file:
        file.write(tokenizer_json)
        file.flush()
        told = (limits.memory_bytes, limits.cpu_s, file.fileno())
        return LimitedChild(_CHILD, *told, descriptors=(file.fileno(),))


def _unnamed_file() -> IO[bytes]:
    """A file in memory where there are such (Linux), so that a root that nobody may write to is no matter."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("tokenizer", 0), "wb")
    return tempfile.TemporaryFile()
