"""What one row of logits is to give: how to choose, and what the choice depends on besides the logits."""

from collections.abc import Iterator
from dataclasses import dataclass

from gpu_worker.contract.commands import Sampling
from gpu_worker.sampling.guide import Guide
from gpu_worker.sampling.history import History


@dataclass(frozen=True, slots=True)
class Draw:
    """One row's wish.

    Attributes:
        sampling: How to choose.
        output_index: Tokens that the sequence has generated before this one.
        banned_ids: Tokens that must not be chosen here, besides bad words.
        history: What the sequence has had; None where nothing depends on it.
        guide: Keeps it to a structure; None where it has none.
    """

    sampling: Sampling
    output_index: int
    banned_ids: tuple[int, ...] = ()
    history: History | None = None
    guide: Guide | None = None

    @property
    def has_rules(self) -> bool:
        """Whether its logits are to be changed before anything is chosen from them."""
        return bool(self.banned_ids) or self.sampling.has_rules

    @property
    def all_banned_ids(self) -> Iterator[int]:
        """Tokens that must not be chosen here."""
        yield from self.banned_ids
        for word in self.sampling.bad_words:
            if len(word) == 1 or (self.history is not None and self.history.follows(word[:-1])):
                yield word[-1]
