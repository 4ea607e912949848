"""The classes of requests as OpenAI's API names them."""

from typing import Literal, TypeAlias

from scheduler_svc.core.sequence import RequestClass

ServiceTier: TypeAlias = Literal["auto", "default", "priority", "flex", "batch"]

_CLASSES: dict[ServiceTier, RequestClass] = {
    "auto": RequestClass.LATENCY_SENSITIVE,
    "default": RequestClass.LATENCY_SENSITIVE,
    "priority": RequestClass.LATENCY_SENSITIVE,
    "flex": RequestClass.BEST_EFFORT,
    "batch": RequestClass.BEST_EFFORT,
}


def request_class_of(tier: ServiceTier | None) -> RequestClass:
    """Returns the tier's class; a request without tier is latency-sensitive."""
    return RequestClass.LATENCY_SENSITIVE if tier is None else _CLASSES[tier]
