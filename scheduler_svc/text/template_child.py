"""The child process in which a chat template is compiled and rendered, `python -m scheduler_svc.text.template_child`.

A template is a program that comes with a model: it may loop for hours, or ask for all memory there is. Here that costs
the process alone.

    ready ──▶ {source, special_tokens} ──▶ {roles, takes_tools} or {broken}
              {turns, setting, max_chars} ──▶ {text}, {lost}, {no_tools} or {refused} ──▶ ...
              too much memory          ──▶ {memory}, and the process ends
              too much processor time  ──▶ SIGPROF ends the process

Ends with its parent, and when its input does. Knows nothing of requests.
"""

import os
import signal
import sys

from scheduler_svc.process.child_side import die_with, limit, next_frame, tell
from scheduler_svc.process.frames import Frame
from scheduler_svc.text.chat_format import ChatFormat, LostTurn, NoTools
from scheduler_svc.text.chat_template import ChatTemplate, ChatTemplateError, ChatTurn, Setting

_MAX_REASON_CHARS = 1000


def main(parent_pid: int, max_memory_bytes: int, max_cpu_s: float) -> None:
    """Answers frames from standard input on standard output until the input ends."""
    die_with(parent_pid)
    limit(max_memory_bytes)
    with os.fdopen(0, "rb", closefd=False) as source, os.fdopen(1, "wb", closefd=False) as sink:
        tell(sink, {"ready": True})
        chat_format: ChatFormat | None = None
        while (frame := next_frame(source)) is not None:
            signal.setitimer(signal.ITIMER_PROF, max_cpu_s)  # its signal is not handled, so it ends the process
            try:
                if chat_format is None:
                    chat_format, answer = _compiled(frame)
                else:
                    answer = _rendered(chat_format, frame)
            except MemoryError:
                tell(sink, {"memory": True})
                return
            signal.setitimer(signal.ITIMER_PROF, 0)
            tell(sink, answer)


def _compiled(frame: Frame) -> tuple[ChatFormat | None, Frame]:
    """Returns the template's format, and which of the usual roles it takes, found by trial renderings."""
    try:
        chat_format = ChatFormat(ChatTemplate(frame["source"], frame["special_tokens"]))
    except ChatTemplateError as error:
        return None, {"broken": _reason(error)}
    return chat_format, {"roles": chat_format.roles, "takes_tools": chat_format.takes_tools}


def _rendered(chat_format: ChatFormat, frame: Frame) -> Frame:
    turns = [ChatTurn(**turn) for turn in frame["turns"]]
    try:
        return {"text": chat_format.render(turns, frame["max_chars"], Setting(**frame.get("setting", {})))}
    except LostTurn as lost:
        return {"lost": lost.index, "call_words": lost.call_words[:_MAX_REASON_CHARS]}
    except NoTools:
        return {"no_tools": True}
    except ChatTemplateError as error:
        return {"refused": _reason(error)}
    except MemoryError:
        raise
    except Exception as error:  # whatever a caller wrote: the next conversation needs this process, and its format
        return {"refused": f"{type(error).__name__} beside the template"}


def _reason(error: ChatTemplateError) -> str:
    return str(error)[:_MAX_REASON_CHARS]


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
