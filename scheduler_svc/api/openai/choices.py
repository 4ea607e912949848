"""Reads from a body how many choices each prompt gets, and whether they are samples or the texts of a search."""

from scheduler_svc.api.choices.plan import ChoicePlan, sampled_plan, valid_count
from scheduler_svc.api.draft import BeamDraft
from scheduler_svc.api.openai.wire.schemas import GenerationFields
from scheduler_svc.core.beams.params import EarlyStopping
from scheduler_svc.errors import InvalidRequest
from scheduler_svc.wording import shown

# What has a meaning with a beam search only, and what each is without one.
_BEAM_FIELDS = {"beam_width": (), "length_penalty": (1,), "early_stopping": (False,), "patience": (1,)}


def choice_plan(body: GenerationFields, best_of: int | None = None) -> ChoicePlan:
    """Returns the plan of a request; raises InvalidRequest for fields that contradict each other."""
    if _searches(body):
        return _beam_plan(body, valid_count("n", body.n), best_of)
    plan = sampled_plan("n", body.n, best_of)
    if plan.is_known_at_the_end and body.stream:
        allowed = f"n, which is {plan.num_choices}, with stream: the best are known at the end"
        raise InvalidRequest("best_of", best_of, allowed)
    return plan


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
