"""Turns the token events of one generation into what its reader sees: text, the tokens it took, and how it ended.

Pure: knows nothing of wire formats, sockets, time or the engine.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from scheduler_svc.core.state.results import TokenLogprob
from scheduler_svc.core.state.sequence import FinishReason, Usage
from scheduler_svc.generation import TokenEvent
from scheduler_svc.text.detokenizer import TextAssembler

NO_TOKENS: Mapping[int, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Finish:
    """Why a generation ended, and what it used; `stop_string` is the one that was met, if any."""

    reason: FinishReason
    stop_string: str | None
    usage: Usage


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new since the last delta; `finish` comes with the last.

    Attributes:
        tops: The most probable tokens at the place of each token, as many as were asked for; empty if none were.
        score: What a beam search ranked it by; None: it is a sample.
        hypotheses: The texts that a beam search found, best first, of which this is the first; empty: it is a sample.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish | None
    tops: tuple[tuple[TokenLogprob, ...], ...] = ()
    score: float | None = None
    hypotheses: "tuple[Delta, ...]" = ()

    @property
    def num_tokens(self) -> int:
        """Tokens of all its texts."""
        return sum(len(one.token_ids) for one in self.hypotheses or (self,))

    @property
    def each_top(self) -> Sequence[tuple[TokenLogprob, ...]]:
        """`tops` with one for each token, empty where none were asked for."""
        return self.tops or [()] * len(self.token_ids)


def joined(parts: Sequence[Delta]) -> Delta:
    """Returns all deltas of a generation, at least one, as one."""
    return Delta(
        text="".join(part.text for part in parts),
        token_ids=tuple(token_id for part in parts for token_id in part.token_ids),
        logprobs=tuple(logprob for part in parts for logprob in part.logprobs),
        finish=parts[-1].finish,
        tops=tuple(top for part in parts for top in part.tops),
        score=parts[-1].score,
        hypotheses=parts[-1].hypotheses,
    )


class DeltaBuilder:
    """Builds the deltas of one generation.

    Args:
        assembler: Makes the text.
        usage: Returns what the generation has used, for an end that the engine did not decide.
        stop_tokens: Stop strings that are special tokens, by id.
    """

    def __init__(
        self, assembler: TextAssembler, usage: Callable[[], Usage], stop_tokens: Mapping[int, str] = NO_TOKENS
    ) -> None:
        self._assembler = assembler
        self._usage = usage
        self._stop_tokens = stop_tokens
        self._num_tokens = 0
        self._stop_string: str | None = None

    def step(self, event: TokenEvent) -> Delta:
        """Returns the delta for `event`; it has `finish` if the event is the last or a stop string is met in it."""
        text, num_used = self._text(event)
        self._num_tokens += num_used
        reason = event.finish_reason if self._stop_string is None else FinishReason.STOP
        return Delta(
            text=text,
            token_ids=event.token_ids[:num_used],
            logprobs=event.logprobs[:num_used],
            finish=None if reason is None else self._finish(reason, event.usage or self._usage()),
            tops=event.tops[:num_used],
        )

    def _text(self, event: TokenEvent) -> tuple[str, int]:
        """Returns the event's text up to a stop string, and the number of tokens that it took."""
        # The token that ends the text by being a stop token is reported, but is not text.
        texts = event.token_ids[:-1] if event.finish_reason is FinishReason.STOP else event.token_ids
        delta, num_used = self._assembler.extend(texts)
        self._stop_string = delta.stop_string
        if delta.stop_string is not None:
            return delta.text, num_used
        if event.finish_reason is None:
            return delta.text, len(event.token_ids)
        rest = self._assembler.finish()
        self._stop_string = rest.stop_string
        if rest.stop_string is None and event.finish_reason is FinishReason.STOP:
            self._stop_string = self._stop_tokens.get(event.token_ids[-1])
        return delta.text + rest.text, len(event.token_ids)

    def _finish(self, reason: FinishReason, usage: Usage) -> Finish:
        # The engine may have run on past a stop string: only what was reported counts.
        return Finish(reason, self._stop_string, replace(usage, num_output_tokens=self._num_tokens))
