"""How many choices a request gets for each prompt, and what they are chosen from: as many samples, more, or beams.

Knows no wire format.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler_svc.api.deltas import Delta
from scheduler_svc.api.draft import BeamDraft
from scheduler_svc.errors import InvalidRequest

MAX_CHOICES = 128


@dataclass(frozen=True, slots=True)
class ChoicePlan:
    """The choices of each prompt.

    Attributes:
        num_choices: How many there are.
        num_generations: How many generations they come from.
        beams: The search that they come from; None: they are samples.
        width_field: The field that gave the search its width.
    """

    num_choices: int = 1
    num_generations: int = 1
    beams: BeamDraft | None = None
    width_field: str = "beam_width"

    @property
    def is_known_at_the_end(self) -> bool:
        """Whether it takes all of each sample to say which of them are choices."""
        return self.beams is None and self.num_generations > self.num_choices

    def chosen(self, deltas: Sequence[Delta]) -> Sequence[Delta]:
        """Returns what becomes the choices of a prompt, whose generations gave these, each as a whole."""
        if self.beams is not None:
            return deltas[0].hypotheses
        if not self.is_known_at_the_end:
            return deltas
        return sorted(deltas, key=_mean_logprob, reverse=True)[: self.num_choices]  # stable: of equals the first

    def parts(self, index: int, delta: Delta) -> Sequence[tuple[int, Delta]]:
        """Returns which choices a delta of a generation belongs to, and what of it."""
        if self.beams is None:
            return [(index, delta)]
        first = index * self.num_choices
        return [(first + place, hypothesis) for place, hypothesis in enumerate(delta.hypotheses)]


def sampled_plan(field: str, num_choices: int | None, best_of: int | None) -> ChoicePlan:
    """Returns the plan of samples; raises InvalidRequest for numbers that are not allowed.

    Args:
        field: What the caller calls the next number.
        num_choices: So many are returned; None: one.
        best_of: Of so many, as `best_of`; None: of as many.
    """
    num_returned = valid_count(field, num_choices)
    num_generations = num_returned if best_of is None else valid_count("best_of", best_of)
    if num_generations < num_returned:
        raise InvalidRequest("best_of", best_of, f"at least {field}, which is {num_returned}")
    return ChoicePlan(num_returned, num_generations)


def valid_count(field: str, given: int | None) -> int:
    """Returns how many choices a field asks for: one where it says nothing."""
    if given is None:
        return 1
    if not 1 <= given <= MAX_CHOICES:
        raise InvalidRequest(field, given, f"1 to {MAX_CHOICES}")
    return given


def require_one_way_on(field: str, session_id: str, num_generations: int) -> None:
    """Raises InvalidRequest for a program's turn with several answers."""
    if num_generations > 1:
        allowed = (
            "nothing where there is more than one choice: it is not known which of them the next turn goes on from"
        )
        raise InvalidRequest(field, session_id, allowed)


def _mean_logprob(delta: Delta) -> float:
    """Returns how probable its tokens are, on average; a text without tokens is as probable as can be."""
    return sum(delta.logprobs) / len(delta.logprobs) if delta.logprobs else 0.0
