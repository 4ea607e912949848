"""Turns the token events of one generation into what its reader sees: text, the tokens it took, and how it ended.

Pure: knows nothing of wire formats, sockets, time or the engine.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from scheduler_svc.api.parts import CallDelta, Part, PartReader
from scheduler_svc.core.state.prompt_scores import PromptScores, joined_scores
from scheduler_svc.core.state.results import TokenLogprob
from scheduler_svc.core.state.sequence import FinishReason, Usage
from scheduler_svc.generation import TokenEvent
from scheduler_svc.text.detokenizer import TextAssembler

NO_TOKENS: Mapping[int, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Finish:
    """Why a generation ended, and what it used.

    Attributes:
        stop_string: The one that was met, if any.
        has_calls: Whether the answer stopped because it calls functions.
    """

    reason: FinishReason
    stop_string: str | None
    usage: Usage
    has_calls: bool = False


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new since the last delta; `finish` comes with the last.

    Attributes:
        tops: The most probable tokens at the place of each token, as many as were asked for; empty if none were.
        reasoning: Thoughts, which are no part of the text.
        calls: Calls of functions, which are none either.
        scores: How probable tokens of the prompt are; all come before the first token.
        score: What a beam search ranked it by; None: it is a sample.
        hypotheses: The texts that a beam search found, best first, of which this is the first; empty: it is a sample.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish | None
    tops: tuple[tuple[TokenLogprob, ...], ...] = ()
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()
    scores: PromptScores | None = None
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
        reasoning="".join(part.reasoning for part in parts),
        calls=tuple(call for part in parts for call in part.calls),
        scores=joined_scores([part.scores for part in parts if part.scores is not None]),
        score=parts[-1].score,
        hypotheses=parts[-1].hypotheses,
    )


def end_apart(delta: Delta) -> Sequence[Delta]:
    """Returns a delta with its calls and its end apart: clients expect no more of a call where the answer ends."""
    if not delta.calls or delta.finish is None:
        return (delta,)
    return (replace(delta, finish=None), Delta("", (), (), delta.finish))


def scores_apart(delta: Delta, most_numbers: int) -> Iterator[Delta]:
    """Yields a delta with what is told of its prompt in pieces of so many numbers; all else comes with the last."""
    *before, last = (None,) if delta.scores is None else delta.scores.pieces(most_numbers)
    yield from (Delta("", (), (), None, scores=piece) for piece in before)
    yield delta if not before else replace(delta, scores=last)


class DeltaBuilder:
    """Builds the deltas of one generation.

    Args:
        assembler: Makes the text.
        usage: Returns what the generation has used, for an end that the engine did not decide.
        stop_tokens: Stop strings that are special tokens, by id.
        reader: Finds thoughts and calls in the text; None: all of it is text.
        includes_stop: Whether what ends the text is a part of it.
    """

    def __init__(
        self,
        assembler: TextAssembler,
        usage: Callable[[], Usage],
        stop_tokens: Mapping[int, str] = NO_TOKENS,
        reader: PartReader | None = None,
        *,
        includes_stop: bool = False,
    ) -> None:
        self._reader = reader
        self._includes_stop = includes_stop
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
        part, reason = self._read(text, reason)
        return Delta(
            text=part.text,
            token_ids=event.token_ids[:num_used],
            logprobs=event.logprobs[:num_used],
            finish=None if reason is None else self._finish(reason, event.usage or self._usage()),
            tops=event.tops[:num_used],
            reasoning=part.reasoning,
            calls=part.calls,
            scores=event.scores,
        )

    def _read(self, text: str, reason: FinishReason | None) -> tuple[Part, FinishReason | None]:
        """Returns what is in the text, and why the answer ends: with the last call that it may have, too."""
        if self._reader is None:
            return Part(text), reason
        part = self._reader.read(text, is_last=reason is not None)
        return part, FinishReason.STOP if self._reader.is_over and reason is None else reason

    def _text(self, event: TokenEvent) -> tuple[str, int]:
        """Returns the event's text up to a stop string, and the number of tokens that it took."""
        # The token that ends the text by being a stop token is reported, but is no text unless that is asked for; if it
        # is a stop string it is written as that string.
        is_stopped = event.finish_reason is FinishReason.STOP
        is_left_out = is_stopped and (not self._includes_stop or event.token_ids[-1] in self._stop_tokens)
        texts = event.token_ids[:-1] if is_left_out else event.token_ids
        delta, num_used = self._assembler.extend(texts)
        self._stop_string = delta.stop_string
        if delta.stop_string is not None:
            return delta.text, num_used
        if event.finish_reason is None:
            return delta.text, len(event.token_ids)
        rest = self._assembler.finish()
        self._stop_string = rest.stop_string
        end = ""
        if rest.stop_string is None and is_stopped:
            self._stop_string = self._stop_tokens.get(event.token_ids[-1])
            end = self._stop_string or "" if self._includes_stop else ""
        return delta.text + rest.text + end, len(event.token_ids)

    def _finish(self, reason: FinishReason, usage: Usage) -> Finish:
        # The engine may have run on past a stop string: only what was reported counts.
        has_calls = reason is FinishReason.STOP and self._reader is not None and self._reader.has_calls
        return Finish(reason, self._stop_string, replace(usage, num_output_tokens=self._num_tokens), has_calls)
