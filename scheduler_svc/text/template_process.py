"""Owns the child process that compiles and renders one chat template: starts it, asks it, ends it, starts it again.

    none ──ask──▶ started, compiled, tried ──ask──▶ answers ... ──too long, too much memory, gone──▶ none

Bounds what a template may take, in processor time and memory; a machine that gives the process no time is not the
template's fault. Knows nothing of requests.
"""

import asyncio
import logging
import signal
from dataclasses import dataclass

import grpc

from scheduler_svc.errors import RETRY_S, ServiceError, jittered
from scheduler_svc.process.frames import Frame, FrameRefused
from scheduler_svc.process.limited_child import LimitedChild, python_module
from scheduler_svc.text.chat_template import ChatTemplateError

_log = logging.getLogger(__name__)

_CHILD = python_module("scheduler_svc.text.template_child")


class TemplateUnusable(ChatTemplateError):
    """The template renders no conversation at all: it does not compile, or takes too much for the plainest one."""


class TemplateExhausted(ChatTemplateError):
    """The template took longer, or more memory, than it may for a conversation."""


class TemplateProcessUnavailable(ServiceError):
    """The process can't be started now, or is given no time to run."""

    status = grpc.StatusCode.UNAVAILABLE

    def __init__(self, reason: str) -> None:
        super().__init__(f"chats can't be rendered now: {reason}")
        self.retry_after_s = jittered(RETRY_S)


@dataclass(frozen=True, slots=True)
class TemplateLimits:
    """What a template may take.

    Attributes:
        cpu_s: Processor time of compiling and trying it, and again of each conversation, in seconds.
        memory_bytes: Address space of its process, Python's own 50 MiB or so included.
        wait_s: Seconds after which a process that has not used `cpu_s` is given up.
        start_s: Seconds that Python has to start.
    """

    cpu_s: float = 2.0
    memory_bytes: int = 512 << 20
    wait_s: float = 10.0
    start_s: float = 30.0


DEFAULT_LIMITS = TemplateLimits()


class TemplateProcess:
    """A template in a process of its own, which is started when it is first asked.

    Args:
        source: Jinja source.
        special_tokens: Texts such as {"bos_token": "<s>"} that the template may use.
        limits: What it may take.

    Attributes:
        roles: The usual roles that the template takes; empty until it was tried.
        takes_tools: Whether it writes functions that may be called into the prompt; known once it was tried.
    """

    def __init__(self, source: str, special_tokens: dict[str, str], limits: TemplateLimits = DEFAULT_LIMITS) -> None:
        self._template: Frame = {"source": source, "special_tokens": special_tokens}
        self._limits = limits
        self._child: LimitedChild | None = None
        self._is_closed = False
        self.roles: tuple[str, ...] = ()
        self.takes_tools = False

    @property
    def pid(self) -> int | None:
        """The child's process id; None while none runs."""
        return None if self._child is None else self._child.pid

    async def start(self) -> None:
        """Starts the child unless it runs, compiles the template in it, and tries it.

        Raises:
            TemplateUnusable: The template is not valid, or takes too much.
            TemplateProcessUnavailable: The process can't be started now.
        """
        if self._child is not None:
            return
        try:
            self._child = LimitedChild(_CHILD, self._limits.memory_bytes, self._limits.cpu_s)
        except OSError as error:
            raise TemplateProcessUnavailable(f"no process can be started: {error.strerror}") from error
        try:
            await self._exchange(None, self._limits.start_s)
        except TemplateExhausted as error:  # the template has not been told
            raise TemplateProcessUnavailable(str(error)) from error
        try:
            answer = await self._exchange(self._template, self._limits.wait_s)
        except TemplateExhausted as error:
            raise TemplateUnusable(str(error)) from error
        if "broken" in answer:
            self._end()
            raise TemplateUnusable(answer["broken"])
        self.roles = tuple(answer["roles"])
        self.takes_tools = answer["takes_tools"]

    async def ask(self, frame: Frame) -> Frame:
        """Returns the child's answer; one call at a time, to be cancelled only where the process is of no more use.

        Raises:
            TemplateExhausted: The answer would take too long, or too much memory.
            TemplateUnusable, TemplateProcessUnavailable: As `start`.
        """
        await self.start()
        return await self._exchange(frame, self._limits.wait_s)

    def close(self) -> None:
        """Ends the child; a call that is under way ends with an error."""
        self._is_closed = True
        if self._child is not None:
            self._child.kill()

    async def _exchange(self, frame: Frame | None, wait_s: float) -> Frame:
        """Tells the child something and returns what it answers; ends it where there is no answer."""
        assert self._child is not None
        try:
            async with asyncio.timeout(wait_s):
                answer = await self._child.exchange(frame)
        except TimeoutError:
            self._end()
            raise TemplateProcessUnavailable(f"the process had no time to run for {wait_s:g} s") from None
        except (EOFError, OSError, FrameRefused):
            raise self._death(self._end()) from None
        except BaseException:
            self._end()
            raise
        if "memory" in answer:
            self._end()
            raise TemplateExhausted(
                f"the model's chat template took more than {self._limits.memory_bytes >> 20} MiB of memory"
            )
        return answer

    def _end(self) -> int:
        child, self._child = self._child, None
        return 0 if child is None else child.end()

    def _death(self, exit_code: int) -> ChatTemplateError | TemplateProcessUnavailable:
        """Returns the error that says why the child is gone."""
        if self._is_closed:
            return TemplateProcessUnavailable("the service is stopping")
        if exit_code == -signal.SIGPROF:
            return TemplateExhausted(f"the model's chat template took longer than {self._limits.cpu_s:g} s")
        _log.error("template_process_died exit_code=%d", exit_code)
        return TemplateExhausted(f"the process that renders the model's chat template died (exit code {exit_code})")
