"""Keeps texts to a structure: says before each token which ones may come.

Grammars are compiled on one thread and followed on another while the model computes; whoever needs a mask waits for
what is left of that. A guide's state follows from its grammar and the tokens that it took, so a sequence that is
resumed elsewhere goes on as it would have.

Source: the library's documentation, github.com/guidance-ai/llguidance.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from time import thread_time

import torch
from llguidance import LLMatcher, LLTokenizer
from qllm.grammar import LIMITS
from torch import Tensor

_MOST_COMPILED = 64
_MOST_CHARS = 300
# Others of the batch wait for a mask that takes longer than a step: a grammar may not take much of their time.
_SPARE_S, _SPARE_PER_TOKEN_S = 1.0, 0.005


@dataclass(frozen=True, slots=True)
class _State:
    """Where a text stands: what may come next (words,), and why nothing may, if nothing may."""

    matcher: LLMatcher
    mask: Tensor
    problem: str = ""


class Guide:
    """Follows one text. One thread calls it; the work is another's.

    Args:
        following: Follows texts; has one thread, so that what is asked of it happens in order.
        begun: Where the text stands at first.
        clock: The processor time of the thread that calls it, in seconds.
    """

    def __init__(
        self, following: ThreadPoolExecutor, begun: "Future[_State]", clock: Callable[[], float] = thread_time
    ) -> None:
        self._following = following
        self._state = begun
        self._clock = clock
        self._spare_s = _SPARE_S

    def accept(self, token_id: int) -> None:
        """Takes in the next token; a mask that was there is waited for."""
        state = self._state.result()
        self._state = self._following.submit(self._step, state, token_id)

    def mask(self) -> Tensor:
        """Returns a bit for each token that may come next, in words of 32 (words,); none where there is a problem."""
        return self._state.result().mask

    @property
    def problem(self) -> str:
        """Why the text can't go on, as it can't from then on; empty while it can."""
        return self._state.result().problem

    def copy(self) -> "Guide":
        """Returns another guide that stands where this one does."""
        state = self._state.result()
        copied: Future[_State] = Future()
        copied.set_result(_State(state.matcher.deep_copy(), state.mask, state.problem))
        return Guide(self._following, copied, self._clock)

    def _step(self, state: _State, token_id: int) -> _State:
        if state.problem:
            return state
        began_s = self._clock()
        after = _after(state.matcher, (token_id,))
        self._spare_s = min(_SPARE_S, self._spare_s + _SPARE_PER_TOKEN_S - (self._clock() - began_s))
        if self._spare_s < 0:
            return _State(after.matcher, torch.zeros_like(after.mask), "its structure takes too long to follow")
        return after


class Guides:
    """Makes guides for one model's tokens.

    Args:
        tokenizer_json: Content of tokenizer.json.
        vocab_size: Token ids are below this.
        end_token_ids: Tokens that end a text that is whole.
    """

    def __init__(self, tokenizer_json: bytes, vocab_size: int, end_token_ids: Sequence[int]) -> None:
        self._compiling = ThreadPoolExecutor(1, thread_name_prefix="grammars")
        self._following = ThreadPoolExecutor(1, thread_name_prefix="guides")
        self._tokenizer = lru_cache(1)(lambda: _tokenizer_of(tokenizer_json, vocab_size, end_token_ids))
        self._compiled = lru_cache(_MOST_COMPILED)(self._compile)

    def guide(self, grammar: str, output_ids: Sequence[int] = ()) -> Guide:
        """Returns a guide by a grammar for a text that has these tokens already."""
        return Guide(self._following, self._compiling.submit(self._begin, grammar, output_ids))

    def _begin(self, grammar: str, output_ids: Sequence[int]) -> _State:
        return _after(self._compiled(grammar).deep_copy(), output_ids)

    def _compile(self, grammar: str) -> LLMatcher:
        return LLMatcher(self._tokenizer(), grammar, log_level=0, limits=LIMITS)


def _tokenizer_of(tokenizer_json: bytes, vocab_size: int, end_token_ids: Sequence[int]) -> LLTokenizer:
    text, end_tokens = tokenizer_json.decode(), list(end_token_ids)
    tokenizer = LLTokenizer(text, eos_token=end_tokens)
    return tokenizer if tokenizer.vocab_size >= vocab_size else LLTokenizer(text, vocab_size, end_tokens)


def _after(matcher: LLMatcher, token_ids: Sequence[int]) -> _State:
    """Takes tokens in, and says what may follow; the matcher is changed."""
    matcher.consume_tokens(list(token_ids))
    mask = torch.frombuffer(bytearray(matcher.compute_bitmask()), dtype=torch.int32)  # (words,)
    if not matcher.is_error():
        return _State(matcher, mask)
    return _State(
        matcher, torch.zeros_like(mask), f"its structure can't be followed: {matcher.get_error()[:_MOST_CHARS]}"
    )
