"""The one place where errors become gRPC statuses.

    ServiceError        -> its status and message, with google.rpc details: RetryInfo or BadRequest
    undecodable bytes   -> INVALID_ARGUMENT that names what is wrong
    a status that a method set itself (health, reflection) -> as it is
    a reader too slow   -> RESOURCE_EXHAUSTED, or a reset stream where not even that is read
    anything else       -> logged with its traceback; the caller sees INTERNAL "internal error"

Cancellation passes: it is no error. Knows nothing of what the methods do.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from scheduler_svc.api.grpc.calls import RequestPatience, behavior_of
from scheduler_svc.api.grpc.malformed import decode
from scheduler_svc.errors import InvalidRequest, ReaderTooSlow, ServiceError
from scheduler_svc.process.panics import ENDINGS

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
    Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]

logger = logging.getLogger(__name__)

DEFAULT_SLOW_READER_S = 60.0
# A status stands behind the messages that nobody reads; who does not read on in time finds the stream reset.
_LAST_WORD_S = 1.0


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler.

    Args:
        slow_reader_s: Seconds after which a stream ends whose caller takes no message.
        patience: Waits for requests.
    """

    def __init__(self, slow_reader_s: float = DEFAULT_SLOW_READER_S, patience: RequestPatience | None = None) -> None:
        self._slow_reader_s = slow_reader_s
        self._patience = patience or RequestPatience()

    async def intercept_service(  # type: ignore[override]  # None is the library's answer for an unknown method
        self, continuation: "Continuation", handler_call_details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Returns the handler for a call, wrapped; None, which becomes UNIMPLEMENTED, if there is none."""
        handler: Handler | None = await continuation(handler_call_details)
        return None if handler is None else self._guarded(handler_call_details.method, handler)

    def _guarded(self, method: str, handler: Any) -> "Handler":
        """Returns the handler with its method in a guard, and with bytes that are no message as a MalformedRequest."""
        message_type = type(handler.request_deserializer(b""))
        behavior = behavior_of(handler, self._patience)

        async def guarded(_requests: object, context: "Context") -> None:
            try:
                # Written here rather than yielded, so that a call that ends while a message is being written closes the
                # generator at once and not when it is collected.
                async with aclosing(await behavior(context)) as responses:
                    async for response in responses:
                        await _write(response, context, self._slow_reader_s)
            except ENDINGS:
                raise
            except ReaderTooSlow as error:
                logger.warning("method=%s peer=%s error=%r", method, context.peer(), str(error))
                await _abort_soon(method, error, context)
            except BaseException as error:
                await _abort(method, error, context)

        return grpc.stream_stream_rpc_method_handler(
            guarded,
            request_deserializer=lambda raw: decode(message_type, raw),
            response_serializer=handler.response_serializer,
        )


async def _write(response: Message, context: "Context", slow_reader_s: float) -> None:
    """Writes a message; waits where the caller's window is full, for so long at most."""
    try:
        async with asyncio.timeout(slow_reader_s):
            await context.write(response)
    except TimeoutError:
        raise ReaderTooSlow(slow_reader_s) from None


async def _abort_soon(method: str, error: ServiceError, context: "Context") -> NoReturn:
    """Ends the call with the error's status where that can be sent; otherwise resets it."""
    try:
        async with asyncio.timeout(_LAST_WORD_S):
            await _abort(method, error, context)
    except TimeoutError:
        raise asyncio.CancelledError from None


async def _abort(method: str, error: BaseException, context: "Context") -> NoReturn:
    """Ends the call with the error's status."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, ServiceError):
        logger.error("method=%s failed unexpectedly", method, exc_info=error)
        await context.abort(grpc.StatusCode.INTERNAL, "internal error")
    await context.abort(error.status, str(error), trailing_metadata(error))


def trailing_metadata(error: ServiceError) -> tuple[tuple[str, str | bytes], ...]:
    """Returns the metadata that tells a client what to do: google.rpc.Status, and when to retry if that makes sense."""
    code: int = error.status.value[0]
    status = status_pb2.Status(code=code, message=str(error))
    if error.retry_after_s is not None:
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
