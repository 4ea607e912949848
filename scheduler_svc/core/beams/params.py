"""What one beam search is asked for."""

import math
from dataclasses import dataclass
from enum import Enum


class EarlyStopping(Enum):
    """When a search that has as many finished texts as it wants ends; the values are transformers' words."""

    __hash__ = object.__hash__

    YES = True  # at once
    NO = False  # when no text that goes on would be better if it ended now
    NEVER = "never"  # when no text that goes on could still become better, however long it grew


@dataclass(frozen=True, slots=True)
class BeamParams:
    """How to search.

    Attributes:
        width: Texts that go on beside one another.
        num_returned: How many of the finished ones are the answer, the best ones.
        length_penalty: A text's score is its summed log-probability, divided by its length to this power: above 0
            longer ones gain, below 0 shorter ones.
        early_stopping: When it ends.
        patience: It wants `width` times so many finished texts. Source: arXiv 2204.05424.
    """

    width: int
    num_returned: int = 1
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = EarlyStopping.NO
    patience: float = 1.0

    @property
    def num_wanted(self) -> int:
        """How many finished texts it wants before it may end, and keeps at most."""
        return math.ceil(self.width * self.patience)
