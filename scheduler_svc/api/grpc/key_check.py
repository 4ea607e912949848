"""Lets a call go on only with an API key that allows it, and says on whose behalf it goes on.

    metadata `authorization: Bearer KEY`, or `x-api-key: KEY` ──▶ Gate ──▶ rule of the method ──▶ the method
                                                                    └── refused before the request is read

Health is open, so that balancers and containers can ask; all else needs a key, reflection included.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc

from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import ServiceError
from scheduler_svc.security.gate import ANY_KEY, NOT_LISTED, OPEN, Gate, Rule
from scheduler_svc.security.grant import Grant, Permission, act_for

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
    Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]

# By the method, else by its service. A test proves that nothing which reflection lists is left out.
RULES = {
    "/qllm.v1.Inference/Generate": Rule((Permission.GENERATE,)),
    "/qllm.v1.Inference/Abort": Rule((Permission.GENERATE, Permission.ADMIN)),  # whose, the method decides
    "/qllm.v1.Admin/GetServerInfo": ANY_KEY,
    "/qllm.v1.Admin/GetLoads": Rule((Permission.OBSERVE,)),
    "/qllm.v1.Admin": Rule((Permission.ADMIN,)),
    "/qllm.v1.Batches": Rule((Permission.GENERATE,), RequestClass.BEST_EFFORT),
    "/grpc.health.v1.Health": OPEN,
    "/grpc.reflection.v1.ServerReflection": ANY_KEY,
    "/grpc.reflection.v1alpha.ServerReflection": ANY_KEY,
}


def rule_of(method: str) -> Rule:
    """Returns the rule of a method, given as /SERVICE/METHOD."""
    return RULES.get(method) or RULES.get(method.rpartition("/")[0], NOT_LISTED)


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
        return _on_behalf(handler, grant)


def _authorization(details: grpc.HandlerCallDetails) -> str | None:
    """Returns the call's Authorization header, made of x-api-key if it has that alone."""
    found: dict[str, str | bytes] = dict(details.invocation_metadata or ())
    authorization, api_key = found.get("authorization"), found.get("x-api-key")
    if isinstance(authorization, str):
        return authorization
    return f"Bearer {api_key}" if isinstance(api_key, str) else None


def _refusing(handler: Any, refusal: ServiceError) -> "Handler":
    """Returns a handler that ends a call with an error; one of streams, for it need not wait for the request."""

    async def refuse(requests: Any, context: "Context") -> AsyncIterator[Any]:
        raise refusal
        yield  # type: ignore[unreachable]  # it makes this a generator

    return grpc.stream_stream_rpc_method_handler(refuse, **_codec(handler))


def _on_behalf(handler: Any, grant: Grant) -> "Handler":
    """Returns the handler with its method done on behalf of the key's tenant."""
    if handler.request_streaming and not handler.response_streaming:
        return grpc.stream_unary_rpc_method_handler(_one_answer(handler.stream_unary, grant), **_codec(handler))
    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(_many_answers(handler.stream_stream, grant), **_codec(handler))
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(_many_answers(handler.unary_stream, grant), **_codec(handler))
    return grpc.unary_unary_rpc_method_handler(_one_answer(handler.unary_unary, grant), **_codec(handler))


def _codec(handler: Any) -> dict[str, Any]:
    return {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }


def _one_answer(behavior: Any, grant: Grant) -> Any:
    async def act(request: Any, context: "Context") -> Any:
        act_for(grant)
        return await behavior(request, context)

    return act


def _many_answers(behavior: Any, grant: Grant) -> Any:
    async def act(request: Any, context: "Context") -> AsyncIterator[Any]:
        act_for(grant)
        async with aclosing(behavior(request, context)) as answers:
            async for answer in answers:
                yield answer

    return act
