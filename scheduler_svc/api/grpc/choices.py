"""Reads from a GenerateRequest how many choices it asks for; judges what does not go along with several."""

from qllm.v1 import inference_pb2 as pb

from scheduler_svc.api.choices.plan import ChoicePlan, require_one_way_on, sampled_plan
from scheduler_svc.errors import InvalidRequest

_FIELDS = ("num_choices", "best_of")


def plan_of(request: pb.GenerateRequest) -> ChoicePlan:
    """Returns the plan of a request; raises InvalidRequest for fields that contradict each other."""
    given = {field: getattr(request, field) if request.HasField(field) else None for field in _FIELDS}  # type: ignore[arg-type]
    plan = sampled_plan("num_choices", given["num_choices"], given["best_of"])
    if request.HasField("beam_search"):
        _require_one(plan, "1 with a beam search, whose beam_search.num_returned says how many texts come back")
    if request.HasField("session"):
        require_one_way_on("session.session_id", request.session.session_id, plan.num_generations)
    return plan


def require_one_choice(request: pb.GenerateRequest) -> None:
    """Raises InvalidRequest unless an item of a job asks for one answer."""
    _require_one(plan_of(request), "1 in a durable job, each of whose items has one answer: send several items")


def _require_one(plan: ChoicePlan, allowed: str) -> None:
    for field, number in zip(_FIELDS, (plan.num_choices, plan.num_generations), strict=True):
        if number > 1:
            raise InvalidRequest(field, number, allowed)
