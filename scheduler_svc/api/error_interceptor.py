"""The one place where errors become gRPC statuses.

    ServiceError        -> its status and message, with google.rpc details: RetryInfo or BadRequest
    undecodable bytes   -> INVALID_ARGUMENT that names what is wrong
    anything else       -> logged with its traceback; the caller sees INTERNAL "internal error"

Covers the services of package qllm.v1; health and reflection set their own statuses.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from scheduler_svc.api.malformed import MalformedRequest, decode
from scheduler_svc.errors import InvalidRequest, Overloaded, ServiceError

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
    Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]

logger = logging.getLogger(__name__)

PACKAGE_PREFIX = "/qllm.v1."


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of qllm.v1, which take one message and return one or stream many."""

    async def intercept_service(  # type: ignore[override]  # None is the library's answer for an unknown method
        self, continuation: "Continuation", handler_call_details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Returns the handler for a call, wrapped; None, which becomes UNIMPLEMENTED, if there is none."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(PACKAGE_PREFIX):
            return handler
        message_type = _request_type(method)
        wrap, guarded = (
            (grpc.unary_stream_rpc_method_handler, _guard_stream(method, handler.unary_stream))
            if handler.response_streaming
            else (grpc.unary_unary_rpc_method_handler, _guard_unary(method, handler.unary_unary))
        )
        return wrap(
            guarded,
            request_deserializer=lambda raw: decode(message_type, raw),
            response_serializer=handler.response_serializer,
        )


def _request_type(method: str) -> type[Message]:
    descriptor = descriptor_pool.Default().FindMethodByName(method.removeprefix("/").replace("/", "."))
    return message_factory.GetMessageClass(descriptor.input_type)


def _guard_unary(method: str, behavior: Any) -> Any:
    async def guarded(request: Message | MalformedRequest, context: "Context") -> Message:
        try:
            response: Message = await behavior(_decoded(request), context)
        except Exception as error:
            await _abort(method, error, context)
        return response

    return guarded


def _guard_stream(method: str, behavior: Any) -> Any:
    async def guarded(request: Message | MalformedRequest, context: "Context") -> None:
        try:
            # Written here rather than yielded, so that a call that ends while a message is being written closes the
            # generator at once and not when it is collected.
            responses: AsyncGenerator[Message, None] = behavior(_decoded(request), context)
            async with aclosing(responses):
                async for response in responses:
                    await context.write(response)
        except Exception as error:
            await _abort(method, error, context)

    return guarded


def _decoded(request: Message | MalformedRequest) -> Message:
    if isinstance(request, MalformedRequest):
        raise request.error
    return request


async def _abort(method: str, error: Exception, context: "Context") -> NoReturn:
    """Ends the call with the error's status."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, ServiceError):
        logger.error("method=%s failed unexpectedly", method, exc_info=error)
        await context.abort(grpc.StatusCode.INTERNAL, "internal error")
    await context.abort(error.status, str(error), trailing_metadata(error))


def trailing_metadata(error: ServiceError) -> tuple[tuple[str, str | bytes], ...]:
    """Returns the metadata that tells a client what to do: google.rpc.Status, and when to retry if it is overload."""
    code: int = error.status.value[0]
    status = status_pb2.Status(code=code, message=str(error))
    if isinstance(error, Overloaded):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        status.details.add().Pack(retry)
        pushback = ("grpc-retry-pushback-ms", str(round(error.retry_after_s * 1e3)))
        return ("grpc-status-details-bin", status.SerializeToString()), pushback
    if isinstance(error, InvalidRequest):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=str(error))
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
        return (("grpc-status-details-bin", status.SerializeToString()),)
    return ()
