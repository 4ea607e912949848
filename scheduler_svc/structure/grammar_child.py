"""The child process in which grammars are tried, `python -m scheduler_svc.structure.grammar_child`.

A grammar of a few hundred bytes may take minutes and gigabytes to prepare; the library's own limits do not hold that.
Here each is prepared, and its first step taken, in a fork that a limit of processor time ends.

    tokenizer, from a file that was handed over ──▶ {ready} or {broken}
    {grammar} ──▶ a fork prepares it ──▶ {problem}, empty where the worker can follow it, too ──▶ ...

Ends with its parent, and when its input does. Knows nothing of requests.
"""

import os
import signal
import sys

from llguidance import LLMatcher, LLTokenizer
from qllm.grammar import LIMITS, tokenizer_of

from scheduler_svc.process.child_side import die_with, limit, next_frame, tell

_MAX_PROBLEM_BYTES = 2000


def main(parent_pid: int, max_memory_bytes: int, max_cpu_s: float, tokenizer_fd: int) -> None:
    """Answers frames from standard input on standard output until the input ends."""
    die_with(parent_pid)
    limit(max_memory_bytes)
    with os.fdopen(0, "rb", closefd=False) as source, os.fdopen(1, "wb", closefd=False) as sink:
        facts = next_frame(source)
        if facts is None:
            return
        try:
            with os.fdopen(tokenizer_fd, "rb") as file:
                file.seek(0)
                tokenizer = tokenizer_of(file.read(), facts["vocab_size"], facts["end_token_ids"])
        except Exception as error:  # the library raises plain ones
            tell(sink, {"broken": str(error)[:_MAX_PROBLEM_BYTES]})
            return
        tell(sink, {"ready": True})
        while (frame := next_frame(source)) is not None:
            tell(sink, {"problem": _tried(tokenizer, frame["grammar"], max_cpu_s)})


def _tried(tokenizer: LLTokenizer, grammar: str, max_cpu_s: float) -> str:
    """Returns what is wrong with a grammar; empty if nothing is."""
    theirs, ours = os.pipe()
    pid = os.fork()  # this process has one thread
    if pid == 0:
        signal.setitimer(signal.ITIMER_PROF, max_cpu_s)  # its signal is not handled, so it ends the fork
        os.write(ours, _problem(tokenizer, grammar).encode()[:_MAX_PROBLEM_BYTES])
        os._exit(0)
    os.close(ours)
    with os.fdopen(theirs, "rb") as answer:
        problem = answer.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status):
        return problem
    if os.WTERMSIG(status) == signal.SIGPROF:
        return f"it takes more than {max_cpu_s:g} s to prepare"
    return "it takes too much memory to prepare"


def _problem(tokenizer: LLTokenizer, grammar: str) -> str:
    """Prepares a grammar and takes its first step, as the worker will."""
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
    mask = matcher.compute_bitmask()
    if matcher.is_error():
        return matcher.get_error()
    return "" if any(mask) else "no text is of it"


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
