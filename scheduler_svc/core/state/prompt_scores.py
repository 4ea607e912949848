"""How probable a prompt's tokens are, in columns: a long prompt with alternatives has a hundred thousand numbers.

Mirrors PromptLogprobs in protos/qllm/v1/inference.proto.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scheduler_svc.core.state.ids import SeqId


@dataclass(frozen=True, slots=True)
class PromptScores:
    """Tokens of a prompt that stand side by side, each with its probability behind all those before it.

    Attributes:
        first_position: Where in the prompt the first of them stands; at least 1.
        token_ids: The tokens.
        logprobs: The natural logarithm of each one's probability.
        ranks: The place of each among all tokens by probability, from 1.
        num_alternatives: So many of the most probable tokens are told at the place of each.
        alternative_ids: Those of all, end to end.
        alternative_logprobs: The natural logarithms of their probabilities.
    """

    first_position: int
    token_ids: Sequence[int]
    logprobs: Sequence[float]
    ranks: Sequence[int]
    num_alternatives: int = 0
    alternative_ids: Sequence[int] = ()
    alternative_logprobs: Sequence[float] = ()

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def stop(self) -> int:
        """One past the place of the last of them."""
        return self.first_position + len(self.token_ids)

    def since(self, position: int) -> "PromptScores":
        """Returns those of them that stand there, or behind it."""
        skipped = max(0, position - self.first_position)
        return self._part(skipped, len(self)) if skipped else self

    def pieces(self, most_numbers: int) -> "Iterator[PromptScores]":
        """Yields them in pieces of so many log-probabilities at most, alternatives included, and of a token at least.

        None are one piece.
        """
        length = max(1, most_numbers // (1 + self.num_alternatives))
        for first in range(0, max(1, len(self)), length):
            yield self._part(first, min(first + length, len(self)))

    def _part(self, first: int, stop: int) -> "PromptScores":
        alternatives = slice(first * self.num_alternatives, stop * self.num_alternatives)
        return PromptScores(
            self.first_position + first,
            self.token_ids[first:stop],
            self.logprobs[first:stop],
            self.ranks[first:stop],
            self.num_alternatives,
            self.alternative_ids[alternatives],
            self.alternative_logprobs[alternatives],
        )

    def alternatives(self, index: int) -> Sequence[tuple[int, float]]:
        """Returns the most probable tokens at the place of one of them, the most probable one first."""
        part = slice(index * self.num_alternatives, (index + 1) * self.num_alternatives)
        return list(zip(self.alternative_ids[part], self.alternative_logprobs[part], strict=True))


def joined_scores(parts: Sequence[PromptScores]) -> PromptScores | None:
    """Returns parts that follow one another as one; None if there are none."""
    if len(parts) < 2:
        return parts[0] if parts else None
    return PromptScores(
        parts[0].first_position,
        [one for part in parts for one in part.token_ids],
        [one for part in parts for one in part.logprobs],
        [one for part in parts for one in part.ranks],
        parts[0].num_alternatives,
        [one for part in parts for one in part.alternative_ids],
        [one for part in parts for one in part.alternative_logprobs],
    )


@dataclass(frozen=True, slots=True)
class ScoredTokens:
    """What the worker found of one sequence's prompt in one iteration."""

    seq_id: SeqId
    scores: PromptScores
