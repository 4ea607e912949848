"""How many choices a request gets for each prompt, and what they are chosen from: as many samples, more, or beams."""

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler_svc.api.deltas import Delta
from scheduler_svc.api.draft import BeamDraft
from scheduler_svc.api.openai.wire.schemas import MAX_CHOICES, GenerationFields
from scheduler_svc.core.beams.params import EarlyStopping
from scheduler_svc.errors import InvalidRequest
from scheduler_svc.wording import shown

# What has a meaning with a beam search only, and what each is without one.
_BEAM_FIELDS = {"beam_width": (), "length_penalty": (1,), "early_stopping": (False,), "patience": (1,)}


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

    def chosen(self, deltas: Sequence[Delta]) -> Sequence[Delta]:
        """Returns what becomes the choices of a prompt, whose generations gave these, each as a whole."""
        if self.beams is not None:
            return deltas[0].hypotheses
        if len(deltas) == self.num_choices:
            return deltas
        return sorted(deltas, key=_mean_logprob, reverse=True)[: self.num_choices]  # stable: of equals the first

    def parts(self, index: int, delta: Delta) -> Sequence[tuple[int, Delta]]:
        """Returns which choices a delta of a generation belongs to, and what of it."""
        if self.beams is None:
            return [(index, delta)]
        first = index * self.num_choices
        return [(first + place, hypothesis) for place, hypothesis in enumerate(delta.hypotheses)]


def choice_plan(body: GenerationFields, best_of: int | None = None) -> ChoicePlan:
    """Returns the plan of a request; raises InvalidRequest for fields that contradict each other."""
    num_choices = _in_range("n", body.n)
    if _searches(body):
        return _beam_plan(body, num_choices, best_of)
    num_generations = num_choices if best_of is None else _in_range("best_of", best_of)
    if num_generations < num_choices:
        raise InvalidRequest("best_of", best_of, f"at least n, which is {num_choices}")
    if num_generations > num_choices and body.stream:
        raise InvalidRequest(
            "best_of", best_of, f"n, which is {num_choices}, with stream: the best are known at the end"
        )
    return ChoicePlan(num_choices, num_generations)


def _beam_plan(body: GenerationFields, num_choices: int, best_of: int | None) -> ChoicePlan:
    widths = {"beam_width": body.beam_width, "best_of": best_of, "n": body.n}
    field, width = next(((name, given) for name, given in widths.items() if given is not None), ("beam_width", None))
    if body.beam_width is not None and best_of not in (None, body.beam_width):
        allowed = f"null, or beam_width, which is {body.beam_width}: with a beam search it is another name of it"
        raise InvalidRequest("best_of", best_of, allowed)
    if width is None:
        raise InvalidRequest("beam_width", None, "a number of beams with use_beam_search, or best_of or n in its place")
    beams = BeamDraft(
        beam_width=width,
        num_returned=num_choices,
        length_penalty=body.length_penalty,
        early_stopping=EarlyStopping(False if body.early_stopping is None else body.early_stopping),
        patience=body.patience,
    )
    return ChoicePlan(num_choices, 1, beams, field)


def _searches(body: GenerationFields) -> bool:
    """Whether a beam search is asked for: by its own field, or by its width."""
    if body.use_beam_search or (body.use_beam_search is None and body.beam_width is not None):
        return True
    for field, neutral in _BEAM_FIELDS.items():
        given = getattr(body, field)
        if given is not None and given not in neutral:
            allowed = " or ".join([*map(shown, neutral), "null"])
            raise InvalidRequest(field, given, f"{allowed}, unless use_beam_search is true")
    return False


def _in_range(field: str, given: int | None) -> int:
    if given is None:
        return 1
    if not 1 <= given <= MAX_CHOICES:
        raise InvalidRequest(field, given, f"1 to {MAX_CHOICES}")
    return given


def _mean_logprob(delta: Delta) -> float:
    """Returns how probable its tokens are, on average; a text without tokens is as probable as can be."""
    return sum(delta.logprobs) / len(delta.logprobs) if delta.logprobs else 0.0
