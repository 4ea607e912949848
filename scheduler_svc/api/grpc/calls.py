"""Makes one kind of all methods, whether they take or give one message or many: messages in, messages out.

A caller who begins a call and sends no request costs some 20 KiB for as long as it likes, without any key where the
method is open. So requests are read here and not by the library:

    call begins ──its first message comes──▶ the method
      └── it is late, or the oldest of too many that wait: ended

Nor is a request kept while its answer is made, as the library would. Knows nothing of what methods do.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from google.protobuf.message import Message

from scheduler_svc.api.grpc.malformed import MalformedRequest
from scheduler_svc.errors import NOTHING, InvalidRequest, ServiceError

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]

Responses: TypeAlias = AsyncGenerator[Message, None]
Behavior: TypeAlias = Callable[["Context"], Awaitable[Responses]]
"""Takes what it needs of a call's requests, and returns what makes the responses."""

FIRST_REQUEST_S = 15.0
NEXT_REQUEST_S = 60.0
# A request follows its call's begin within milliseconds, so that even a thousand at a time are hardly ever so many.
MOST_WAITING = 4096


class RequestTooSlow(ServiceError):
    """A call's request does not come."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"request: nothing came for {limit_s:g} s")


class TooManyWaiting(ServiceError):
    """A call's request does not come, and others want its place."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, limit: int) -> None:
        super().__init__(f"request: nothing came yet, and {limit} calls that came later wait for theirs")


class RequestPatience:
    """Waits for the requests of calls.

    Args:
        first_s: Seconds within which a call's first message must have come.
        next_s: Seconds within which each further one must have, of methods that take many.
        most_waiting: Calls that may wait for their first at a time; the oldest gives way to a new one.
    """

    def __init__(
        self, first_s: float = FIRST_REQUEST_S, next_s: float = NEXT_REQUEST_S, most_waiting: int = MOST_WAITING
    ) -> None:
        self._first_s = first_s
        self._next_s = next_s
        self._most_waiting = most_waiting
        self._waiting: dict[asyncio.Timeout, None] = {}  # in the order in which they came

    async def only(self, context: "Context") -> Message:
        """Returns the message of a call that has one; raises RequestTooSlow, TooManyWaiting, InvalidRequest."""
        message = await self._first(context)
        if message is None:
            raise InvalidRequest("request", NOTHING, "one message")
        return _decoded(message)

    async def each(self, context: "Context") -> AsyncIterator[Message]:
        """Yields the messages of a call; raises RequestTooSlow, TooManyWaiting, InvalidRequest."""
        message = await self._first(context)
        while message is not None:
            yield _decoded(message)
            try:
                async with asyncio.timeout(self._next_s):
                    message = await _read(context)
            except TimeoutError:
                raise RequestTooSlow(self._next_s) from None

    async def _first(self, context: "Context") -> Message | MalformedRequest | None:
        limit = asyncio.timeout(self._first_s)
        try:
            async with limit:
                self._take_place(limit)
                return await _read(context)
        except TimeoutError:
            if limit in self._waiting:
                raise RequestTooSlow(self._first_s) from None
            raise TooManyWaiting(self._most_waiting) from None
        finally:
            self._waiting.pop(limit, None)

    def _take_place(self, limit: asyncio.Timeout) -> None:
        """Takes a place; if there is none, the oldest wait but those that are over by themselves ends now."""
        self._waiting[limit] = None
        if len(self._waiting) > self._most_waiting:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            if not oldest.expired():
                oldest.reschedule(asyncio.get_running_loop().time())


def behavior_of(handler: Any, patience: RequestPatience) -> Behavior:
    """Returns what a handler of any kind does."""
    method = getattr(handler, _kind(handler))
    takes_many, gives_many = handler.request_streaming, handler.response_streaming

    async def behave(context: "Context") -> Responses:
        request = patience.each(context) if takes_many else await patience.only(context)
        responses: Responses = method(request, context) if gives_many else _one(method(request, context))
        return responses

    return behave


def preceded(handler: Any, first: Callable[[], None]) -> "Handler":
    """Returns a handler of the same kind, which calls `first` in the task of a call before its method."""
    kind = _kind(handler)
    method = getattr(handler, kind)

    def act(request: Any, context: "Context") -> Any:
        first()
        return method(request, context)

    make = getattr(grpc, f"{kind}_rpc_method_handler")
    preceded: Handler = make(act, handler.request_deserializer, handler.response_serializer)
    return preceded


def _kind(handler: Any) -> str:
    """Returns what the library calls such a handler, unary_stream for example."""
    takes, gives = ("stream" if many else "unary" for many in (handler.request_streaming, handler.response_streaming))
    return f"{takes}_{gives}"


async def _one(response: Awaitable[Message]) -> Responses:
    yield await response


async def _read(context: "Context") -> Message | MalformedRequest | None:
    """Returns a call's next message, of which nobody else keeps hold; None after the last one."""
    message = await context.read()
    return None if message is grpc.aio.EOF else message


def _decoded(message: Message | MalformedRequest) -> Message:
    if isinstance(message, MalformedRequest):
        raise message.error
    return message
