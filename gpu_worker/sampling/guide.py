"""Keeps texts to a structure: says before each token which ones may come.

Grammars are prepared on one thread and followed on another while the model computes; whoever needs a mask waits for
what is left of that, and never for long: the scheduler has tried each grammar, within a limit of time, before it comes
here, and a text whose grammar takes much of its batch's time ends. A guide's state follows from its grammar and the
tokens that it took, so a sequence that is resumed elsewhere goes on as it would have.

Source: the library's documentation, github.com/guidance-ai/llguidance.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import lru_cache
from time import thread_time

import torch
from llguidance import LLMatcher, LLTokenizer
from qllm.grammar import LIMITS, STACK_BYTES, Spare, tokenizer_of
from torch import Tensor

from gpu_worker.errors import one_line
from gpu_worker.machine.daemon import Daemon

_MOST_PREPARED = 64
_MOST_CHARS = 300
_LONGEST_WAIT_S = 2.0


@dataclass(frozen=True, slots=True)
class _State:
    """Where a text stands.

    Attributes:
        matcher: Takes tokens; None where there is none.
        mask: A bit for each token that may come next, in words of 32 (words,); of no word where there is a problem.
        problem: Why nothing may come; empty while something may.
        is_whole: Whether only an end token may come.
    """

    matcher: LLMatcher | None
    mask: Tensor
    problem: str = ""
    is_whole: bool = False

    def copy(self) -> "_State":
        """Returns the same with a matcher of its own: matchers change with each token."""
        return replace(self, matcher=None if self.matcher is None else self.matcher.deep_copy())


class Guide:
    """Follows one text. One thread calls it; the work is another's.

    Args:
        follower: Follows texts.
        begun: Where the text stands at first.
        clock: The processor time of the thread that calls it, in seconds.
    """

    def __init__(self, follower: Daemon, begun: "Future[_State]", clock: Callable[[], float] = thread_time) -> None:
        self._follower = follower
        self._state = begun
        self._clock = clock
        self._spare = Spare()

    def accept(self, token_id: int) -> None:
        """Takes in the next token; the mask before it is there, since it was chosen by that."""
        state = self._now()
        self._state = self._follower.submit(lambda: self._step(state, token_id))

    def mask(self) -> Tensor:
        """Returns a bit for each token that may come next, in words of 32 (words,); none at all: see `problem`."""
        return self._now().mask

    @property
    def problem(self) -> str:
        """Why the text can't go on, as it can't from then on; empty while it can."""
        return self._now().problem

    @property
    def is_whole(self) -> bool:
        """Whether the text is whole, so that only an end token may come."""
        return self._now().is_whole

    def _now(self) -> _State:
        """Where it stands; a state that is late is given up for good."""
        try:
            return self._state.result(_LONGEST_WAIT_S)
        except TimeoutError:
            problem = f"its structure was not ready within {_LONGEST_WAIT_S:g} s"
        except Exception as error:  # the library raises no particular kind
            problem = f"its structure can't be followed: {one_line(error)}"
        self._state.cancel()
        self._state = _there(_stuck(problem))
        return self._state.result()

    def _step(self, state: _State, token_id: int) -> _State:
        if state.matcher is None:
            return state
        began_s = self._clock()
        after = _after(state.matcher, (token_id,))
        return after if self._spare.spend(self._clock() - began_s) else _stuck("its structure takes too long to follow")


class Guides:
    """Makes guides for one model's tokens.

    Args:
        tokenizer_json: Content of tokenizer.json; empty if the model has none.
        vocab_size: Token ids are below this.
        end_token_ids: Tokens that end a text that is whole.
    """

    def __init__(self, tokenizer_json: bytes, vocab_size: int, end_token_ids: Sequence[int]) -> None:
        self._of_tokenizer = tokenizer_json, vocab_size, end_token_ids
        self._tokenizer: LLTokenizer | None = None
        self._preparer, self._follower = Daemon("grammars", STACK_BYTES), Daemon("guides", STACK_BYTES)
        self._prepared = lru_cache(_MOST_PREPARED)(self._prepare)

    def get_ready(self) -> str:
        """Reads the tokenizer, which takes a second and more; returns why structures can't be kept to, if so."""
        if not self._of_tokenizer[0]:
            return "the model has no tokenizer"
        try:
            self._tokenizer = tokenizer_of(*self._of_tokenizer)
        except Exception as error:  # the library raises no particular kind
            return f"the tokenizer is of a kind that can't be followed: {one_line(error)}"
        return ""

    def guide(self, grammar: str, output_ids: Sequence[int] = ()) -> Guide:
        """Returns a guide by a grammar for a text that has these tokens already."""
        return Guide(self._follower, self._preparer.submit(lambda: self._begin(grammar, output_ids)))

    def _begin(self, grammar: str, output_ids: Sequence[int]) -> _State:
        begun = self._prepared(grammar).copy()
        return begun if begun.matcher is None or not output_ids else _after(begun.matcher, output_ids)

    def _prepare(self, grammar: str) -> _State:
        """Where texts of a grammar begin."""
        if self._tokenizer is None and (problem := self.get_ready()):
            return _stuck(problem)
        assert self._tokenizer is not None
        return _after(LLMatcher(self._tokenizer, grammar, log_level=0, limits=LIMITS), ())


def _after(matcher: LLMatcher, token_ids: Sequence[int]) -> _State:
    """Takes tokens in, and says what may follow; the matcher is changed."""
    matcher.consume_tokens(list(token_ids))
    mask = torch.frombuffer(bytearray(matcher.compute_bitmask()), dtype=torch.int32)  # (words,)
    if matcher.is_error():
        words = " ".join(matcher.get_error().split())
        return _stuck(f"its structure can't be followed: {words[:_MOST_CHARS]}")
    return _State(matcher, mask, is_whole=matcher.is_stopped())


def _there(state: _State) -> "Future[_State]":
    """A state that nobody has to wait for."""
    future: Future[_State] = Future()
    future.set_result(state)
    return future


def _stuck(problem: str) -> _State:
    return _State(None, torch.zeros(0, dtype=torch.int32), problem)
