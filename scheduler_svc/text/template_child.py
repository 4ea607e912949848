"""The child process in which a chat template is compiled and rendered, `python -m scheduler_svc.text.template_child`.

A template is a program that comes with a model: it may loop for hours, or ask for all memory there is. Here that costs
the process alone.

    ready ──▶ {source, special_tokens} ──▶ {roles} or {broken}
              {turns, max_chars}       ──▶ {text}, {lost} or {refused} ──▶ ...
              too much memory          ──▶ {memory}, and the process ends
              too much processor time  ──▶ SIGPROF ends the process

Ends with its parent, and when its input does. Knows nothing of requests.
"""

import ctypes
import os
import resource
import signal
import sys
from typing import BinaryIO

from scheduler_svc.text import frames
from scheduler_svc.text.chat_format import ChatFormat, LostTurn
from scheduler_svc.text.chat_template import ChatTemplate, ChatTemplateError, ChatTurn
from scheduler_svc.text.frames import Frame

_PR_SET_PDEATHSIG = 1
_MAX_DESCRIPTORS = 64  # for modules that are imported late
_MAX_REASON_CHARS = 1000


def main(parent_pid: int, max_memory_bytes: int, max_cpu_s: float) -> None:
    """Answers frames from standard input on standard output until the input ends."""
    _die_with(parent_pid)
    _limit(max_memory_bytes)
    with os.fdopen(0, "rb", closefd=False) as source, os.fdopen(1, "wb", closefd=False) as sink:
        _tell(sink, {"ready": True})
        chat_format: ChatFormat | None = None
        while (frame := _next(source)) is not None:
            signal.setitimer(signal.ITIMER_PROF, max_cpu_s)  # its signal is not handled, so it ends the process
            try:
                if chat_format is None:
                    chat_format, answer = _compiled(frame)
                else:
                    answer = _rendered(chat_format, frame)
            except MemoryError:
                _tell(sink, {"memory": True})
                return
            signal.setitimer(signal.ITIMER_PROF, 0)
            _tell(sink, answer)


def _compiled(frame: Frame) -> tuple[ChatFormat | None, Frame]:
    """Returns the template's format, and which of the usual roles it takes, found by trial renderings."""
    try:
        chat_format = ChatFormat(ChatTemplate(frame["source"], frame["special_tokens"]))
    except ChatTemplateError as error:
        return None, {"broken": _reason(error)}
    return chat_format, {"roles": chat_format.roles}


def _rendered(chat_format: ChatFormat, frame: Frame) -> Frame:
    try:
        return {"text": chat_format.render([ChatTurn(*turn) for turn in frame["turns"]], frame["max_chars"])}
    except LostTurn as lost:
        return {"lost": lost.index}
    except ChatTemplateError as error:
        return {"refused": _reason(error)}


def _reason(error: ChatTemplateError) -> str:
    return str(error)[:_MAX_REASON_CHARS]


def _next(source: BinaryIO) -> Frame | None:
    """Returns the next frame; None at the end of the input."""
    head = source.read(frames.HEAD_BYTES)
    if len(head) < frames.HEAD_BYTES:
        return None
    num_bytes = frames.body_bytes(head)
    body = source.read(num_bytes)
    return frames.read(body) if len(body) == num_bytes else None


def _tell(sink: BinaryIO, frame: Frame) -> None:
    sink.write(frames.written(frame))
    sink.flush()


def _die_with(parent_pid: int) -> None:
    """Makes this process end at once when its parent does, even inside a loop (Linux; elsewhere once it reads on)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before the line above
        sys.exit(0)


def _limit(max_memory_bytes: int) -> None:
    """Takes from this process what no template needs: more memory, files, a dump of what clients said."""
    for which, most in (
        (resource.RLIMIT_AS, max_memory_bytes),
        (resource.RLIMIT_NOFILE, _MAX_DESCRIPTORS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(which)
        lowest = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (lowest, lowest))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
