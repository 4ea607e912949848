"""The child process in which grammars are tried, `python -m scheduler_svc.structure.grammar_child`.

A grammar of a few hundred bytes may take minutes and gigabytes to prepare; the library's own limits do not hold that.
Here each is prepared, and followed for some tokens, in a fork that a limit of processor time ends.

    tokenizer, from a file that was handed over ──▶ {ready} or {broken}
    {grammar} ──▶ a fork tries it ──▶ {problem}, empty where the worker can follow it, too ──▶ ...

Ends with its parent, and when its input does. Knows nothing of requests.
"""

import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from llguidance import LLMatcher, LLTokenizer
from qllm.grammar import LIMITS, STEP_S, TRIAL_STACK_BYTES, Spare, tokenizer_of

from scheduler_svc.process.child_side import die_with, limit, next_frame, tell

_MAX_PROBLEM_BYTES = 2000
# Of each way in which a grammar is followed.
_NUM_TOKENS = 32
_SEED = 7
_NO_TEXT = "no text is of it"
_FAILED = "the library that follows grammars fails on it"
_TOO_LONG = "it takes too long to follow"
_EMPTY = "NoExtensionBias"  # the library's word for that


def main(parent_pid: int, max_memory_bytes: int, max_cpu_s: float, tokenizer_fd: int) -> None:
    """Answers frames from standard input on standard output until the input ends."""
    die_with(parent_pid)
    limit(max_memory_bytes, TRIAL_STACK_BYTES)
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
        trials = _Trials(tokenizer, facts["end_token_ids"], max_cpu_s)
        while (frame := next_frame(source)) is not None:
            tell(sink, {"problem": trials.problem(frame["grammar"])})


class _Trials:
    """Tries grammars with one tokenizer.

    Args:
        tokenizer: The model's.
        end_token_ids: Tokens that end a text.
        max_cpu_s: Processor time that preparing a grammar may take, and each of its steps.
    """

    def __init__(self, tokenizer: LLTokenizer, end_token_ids: Sequence[int], max_cpu_s: float) -> None:
        self._tokenizer = tokenizer
        self._ends = sum(1 << token_id for token_id in set(end_token_ids))
        self._max_cpu_s = max_cpu_s

    def problem(self, grammar: str) -> str:
        """Returns what is wrong with a grammar; empty if nothing is."""
        theirs, ours = os.pipe()
        pid = os.fork()  # this process has one thread
        if pid == 0:
            self._tell_and_exit(ours, grammar)
        os.close(ours)
        with os.fdopen(theirs, "rb") as answer:
            problem = answer.read().decode(errors="replace")
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):  # a fork that ends before it has found anything has not found it well
            return problem if os.WEXITSTATUS(status) == 0 else problem or _FAILED
        if os.WTERMSIG(status) == signal.SIGPROF:
            return f"it takes more than {self._max_cpu_s:g} s to prepare, or for one token"
        return "it takes too much memory to prepare"

    def _tell_and_exit(self, sink: int, grammar: str) -> NoReturn:
        """Ends the fork with what it found; never by an exception, which would go on in a copy of this process."""
        try:
            os.write(sink, self._found(grammar).encode(errors="replace")[:_MAX_PROBLEM_BYTES])
        except BaseException as error:  # a panic of the library is no Exception
            os.write(sink, f"{_FAILED} ({type(error).__name__})".encode())
            os._exit(1)
        os._exit(0)

    def _found(self, grammar: str) -> str:
        """Prepares a grammar and follows it for some tokens, as the worker will."""
        self._limit_step()
        begun = LLMatcher(self._tokenizer, grammar, log_level=0, limits=LIMITS)
        mask = begun.compute_bitmask()
        if begun.is_error():
            return _words(begun.get_error())
        if not any(mask):
            return _NO_TEXT
        ways = (_lowest, random.Random(_SEED).randrange)
        return next(filter(None, (self._followed(begun.deep_copy(), way) for way in ways)), "")

    def _followed(self, matcher: LLMatcher, way: Callable[[int], int]) -> str:
        """Follows a grammar for some tokens; returns what went wrong, if anything did.

        What a grammar asks for may grow with each token: many show that here, and the others to the worker.
        """
        spare, times_s = Spare(), list[float]()
        while len(times_s) < _NUM_TOKENS:
            self._limit_step()
            began_s = time.process_time()
            token_id = self._chosen(matcher.compute_bitmask(), way)
            if token_id is None or matcher.is_error():
                return _words(matcher.get_error())
            matcher.consume_token(token_id)
            times_s.append(time.process_time() - began_s)
            if not spare.spend(times_s[-1]):
                return _TOO_LONG
        # Of steady steps that are too long the worker would have enough some time later.
        return _TOO_LONG if statistics.median(times_s) > STEP_S else ""

    def _limit_step(self) -> None:
        """Gives the next step its processor time; the signal is not handled, so it ends this process."""
        signal.setitimer(signal.ITIMER_PROF, self._max_cpu_s)

    def _chosen(self, mask: bytes, way: Callable[[int], int]) -> int | None:
        """Returns one of the tokens by which the text goes on; None if it may only end.

        Args:
            mask: A bit for each token that may come.
            way: Gives a place in so many tokens, from which on one is looked for.
        """
        bits = int.from_bytes(mask, "little") & ~self._ends
        later = bits >> (start := way(len(mask) * 8)) << start
        bits = later or bits
        return (bits & -bits).bit_length() - 1 if bits else None


def _lowest(_: int) -> int:
    """Leads to the first token: in most vocabularies that is a short one."""
    return 0


def _words(problem: str) -> str:
    """Returns the library's words, where they are some."""
    return _NO_TEXT if problem.startswith(_EMPTY) else problem


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
