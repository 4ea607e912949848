"""Lets a call go on only with an API key that allows it, and says on whose behalf it goes on.

    metadata `authorization: Bearer KEY`, or `x-api-key: KEY` ──▶ Gate ──▶ rule of the method ──▶ the method
                                                                    └── refused before the request is read

Health is open, so that balancers and containers can ask; all else needs a key, reflection included.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from scheduler_svc.api.grpc.calls import preceded
from scheduler_svc.api.grpc.former_names import current_method
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import ServiceError
from scheduler_svc.security.gate import ANY_KEY, NOT_LISTED, OPEN, Gate, Rule
from scheduler_svc.security.grant import Permission, act_for

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
    Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]

# By the method, else by its service, as they are called today. A test proves that nothing is left out which reflection
# lists.
RULES = {
    "/qllm.v1.InferenceService/Generate": Rule((Permission.GENERATE,)),
    "/qllm.v1.InferenceService/Abort": Rule((Permission.GENERATE, Permission.ADMIN)),  # whose, the method decides
    "/qllm.v1.AdminService/GetServerInfo": ANY_KEY,
    "/qllm.v1.AdminService/GetLoads": Rule((Permission.OBSERVE,)),
    "/qllm.v1.AdminService": Rule((Permission.ADMIN,)),
    "/qllm.v1.BatchesService": Rule((Permission.GENERATE,), RequestClass.BEST_EFFORT),
    "/grpc.health.v1.Health": OPEN,
    "/grpc.reflection.v1.ServerReflection": ANY_KEY,
    "/grpc.reflection.v1alpha.ServerReflection": ANY_KEY,
}


def rule_of(method: str) -> Rule:
    """Returns the rule of a method, given as /SERVICE/METHOD."""
    current = current_method(method)
    return RULES.get(current) or RULES.get(current.rpartition("/")[0], NOT_LISTED)


class KeyInterceptor(grpc.aio.ServerInterceptor):
    """Asks for a key; it stands inside of the interceptor that turns errors into statuses.

    Args:
        gate: Knows the keys.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def intercept_service(  # type: ignore[override]  # None is the library's answer for an unknown method
        self, continuation: "Continuation", handler_call_details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Returns the handler for a call that may go on, else one that refuses."""
        handler: Handler | None = await continuation(handler_call_details)
        rule = rule_of(handler_call_details.method)
        if handler is None or rule.is_open:
            return handler
        try:
            grant = self._gate.grant_of(_authorization(handler_call_details))
            rule.check(grant, handler_call_details.method)
        except ServiceError as refusal:
            return _refusing(handler, refusal)
        return preceded(handler, partial(act_for, grant))


def _authorization(details: grpc.HandlerCallDetails) -> str | None:
    """Returns the call's Authorization header, made of x-api-key if it has that alone."""
    found: dict[str, str | bytes] = dict(details.invocation_metadata or ())
    authorization, api_key = found.get("authorization"), found.get("x-api-key")
    if isinstance(authorization, str):
        return authorization
    return f"Bearer {api_key}" if isinstance(api_key, str) else None


def _refusing(handler: Any, refusal: ServiceError) -> "Handler":
    """Returns a handler that ends a call with an error; it does not wait for the request."""

    async def refuse(requests: object, context: "Context") -> AsyncIterator[Any]:
        raise refusal
        yield  # type: ignore[unreachable]  # it makes this a generator

    return grpc.stream_stream_rpc_method_handler(refuse, handler.request_deserializer, handler.response_serializer)
