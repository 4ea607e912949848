"""The classes of requests as OpenAI's API names them, and as vLLM's `priority` does."""

from typing import Literal, TypeAlias

from scheduler_svc.core.state.sequence import RequestClass

ServiceTier: TypeAlias = Literal["auto", "default", "priority", "flex", "batch"]

_CLASSES: dict[ServiceTier, RequestClass] = {
    "default": RequestClass.LATENCY_SENSITIVE,
    "priority": RequestClass.LATENCY_SENSITIVE,
    "flex": RequestClass.BEST_EFFORT,
    "batch": RequestClass.BEST_EFFORT,
}


def request_class_of(tier: ServiceTier | None, priority: int | None) -> RequestClass:
    """Returns the class of a request.

    Args:
        tier: Decides, unless it is absent or "auto".
        priority: Decides then: lower is more urgent, and whatever is less urgent than the default, 0, is best-effort.
    """
    if tier is not None and tier != "auto":
        return _CLASSES[tier]
    return RequestClass.BEST_EFFORT if priority is not None and priority > 0 else RequestClass.LATENCY_SENSITIVE
