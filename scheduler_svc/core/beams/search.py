"""One beam search, in numbers: from candidates for the next token of each text to those texts that go on.

    candidates of each beam ──▶ best by summed score ──▶ width that go on ─▶ beams of the next round
                                        ╰─ ends, and is among the best width ─▶ finished ─▶ best so many are kept

With a patience of 1 it gives what transformers' beam search does: what ends counts only among the best `width`, and a
text's length is that of its generated tokens, the one that ends it included. Knows no sequences, no cache and no time.
Sources: transformers, generation/utils.py (`_beam_search`); arXiv 2204.05424 (patience).
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from scheduler_svc.core.beams.params import BeamParams, EarlyStopping

# A text's score with one more token, which of the beams it goes on from, the token, and its log-probability.
_Step = tuple[float, int, int, float]


class Candidate(NamedTuple):
    """A token that may follow.

    Attributes:
        token_id: The token.
        logprob: The natural logarithm of its probability in the model's own distribution.
        score: The same after the request's rules, which is what counts.
    """

    token_id: int
    logprob: float
    score: float


@dataclass(frozen=True, slots=True)
class Beam:
    """A text as far as it goes, as its last token and what is before that, so that texts share their beginnings.

    Attributes:
        before: The text without its last token; None where that is the prompt alone.
        token_id: Its last token.
        logprob: That token's.
        score: Summed up over all of its tokens.
    """

    before: "Beam | None"
    token_id: int
    logprob: float
    score: float

    def tokens(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Returns its tokens, and the log-probability of each."""
        nodes = []
        node: Beam | None = self
        while node is not None:
            nodes.append(node)
            node = node.before
        nodes.reverse()
        return tuple(one.token_id for one in nodes), tuple(one.logprob for one in nodes)


class Child(NamedTuple):
    """A text that goes on, and which of the beams of the round before it goes on from."""

    parent: int
    beam: Beam


class Finished(NamedTuple):
    """A text that ended.

    Attributes:
        beam: The text.
        score: Its summed log-probability, with the length penalty.
        is_cut: Whether it ended because it was as long as it may be.
    """

    beam: Beam
    score: float
    is_cut: bool


class BeamSearch:
    """A search from one prompt.

    Args:
        params: What is asked for.
        stop_token_ids: Tokens that end a text.
        max_tokens: Most tokens of a text.

    Attributes:
        finished: Texts that ended, best first.
        is_over: Whether it has ended.
    """

    def __init__(self, params: BeamParams, stop_token_ids: Set[int], max_tokens: int) -> None:
        self._params = params
        self._stop_token_ids = stop_token_ids
        self._max_tokens = max_tokens
        self._beams: Sequence[Beam | None] = (None,)  # the prompt
        self._num_tokens = 0
        self.finished: Sequence[Finished] = ()
        self.is_over = False

    def advance(self, candidates: Sequence[Iterable[Candidate]]) -> list[Child]:
        """Takes in the candidates of each beam, in the beams' order; returns the next beams, best first.

        A beam without any comes to nothing, and the others go on. None go on once it is over.
        """
        self._num_tokens += 1
        is_last = self._num_tokens >= self._max_tokens
        going_on: list[Child] = []
        ended: list[Finished] = []
        for rank, (score, parent, token_id, logprob) in enumerate(self._ranked(candidates)):
            is_stopped = token_id in self._stop_token_ids
            if is_last or is_stopped:
                if rank < self._params.width:
                    beam = Beam(self._beams[parent], token_id, logprob, score)
                    ended.append(Finished(beam, self._penalized(score, self._num_tokens), not is_stopped))
            elif len(going_on) < self._params.width:
                going_on.append(Child(parent, Beam(self._beams[parent], token_id, logprob, score)))
        merged = sorted((*self.finished, *ended), key=lambda one: -one.score)  # stable: of equals the earlier one
        self.finished = merged[: self._params.num_wanted]
        self.is_over = not going_on or self._has_enough(going_on[0].beam.score)
        if self.is_over:
            going_on = []
        self._beams = [child.beam for child in going_on]
        return going_on

    def _ranked(self, candidates: Sequence[Iterable[Candidate]]) -> list[_Step]:
        """Returns the best of all candidates, so many that `width` of them go on if so many can."""
        steps = [
            (score + (before.score if before is not None else 0.0), parent, token_id, logprob)
            for parent, (before, rows) in enumerate(zip(self._beams, candidates, strict=True))
            for token_id, logprob, score in rows
        ]
        num_ends = max(1, len(self._stop_token_ids))
        steps.sort(key=itemgetter(0), reverse=True)  # stable: of equals the earlier one
        return steps[: self._params.width * (1 + num_ends)]

    def _has_enough(self, best_score: float) -> bool:
        """Whether it ends with what is finished, though texts go on of which the best has that score."""
        params = self._params
        if len(self.finished) < params.num_wanted:
            return False
        if params.early_stopping is EarlyStopping.YES:
            return True
        grows = params.early_stopping is EarlyStopping.NEVER and params.length_penalty > 0
        length = self._max_tokens if grows else self._num_tokens
        return self._penalized(best_score, length) <= self.finished[-1].score

    def _penalized(self, score: float, length: int) -> float:
        return float(score / length**self._params.length_penalty)


def num_candidates(params: BeamParams, stop_token_ids: Set[int]) -> int:
    """Returns how many of a text's best candidates a search needs: as many as go on, and all that may end it."""
    return params.width + max(1, len(stop_token_ids))
