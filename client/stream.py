"""One generation as it happens: owns the call that brings its tokens, and ends that call when nobody reads on."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Any, Self

import grpc
from qllm.client.errors import Cancelled, QllmError, ServerError, error_from_rpc
from qllm.client.gathering import Choices
from qllm.client.messages import Delta, GenerationResult
from qllm.v1 import inference_pb2 as pb

Call = grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]


class GenerationStream:
    """An asynchronous iterator of `Delta`; after the last one, `result` holds the whole.

        stream = client.generate("def main():")
        async for delta in stream:
            print(delta.text, end="")
        print(stream.result.finish_reason)

    The request is sent when the stream is made. Leaving the loop early cancels it on the server; `cancel()` does, and
    so does leaving an `async with stream:` block, even when an exception keeps the loop's frame alive.
    """

    def __init__(
        self,
        call: Call,
        request_id: str = "",
        translate: Callable[[grpc.aio.AioRpcError], QllmError] = error_from_rpc,
        num_choices: int = 1,
    ) -> None:
        self._call = call
        self._request_id = request_id
        self._translate = translate
        self._sent_s = time.perf_counter()
        self._choices = Choices(num_choices)
        self._result: GenerationResult | None = None
        self._is_read = False
        self._is_cancelled = False

    @property
    def request_id(self) -> str:
        """The request's id; empty until the first message if the service makes it."""
        return self._request_id

    @property
    def result(self) -> GenerationResult:
        """The whole generation; RuntimeError while the stream has not ended."""
        if self._result is None:
            raise RuntimeError("the stream has not ended: read it to its end before taking the result")
        return self._result

    def cancel(self) -> None:
        """Ends the request on the server; reading on then raises `Cancelled`. Does nothing after the end."""
        if self._result is None:
            self._is_cancelled = True
            self._call.cancel()

    async def collect(self) -> GenerationResult:
        """Reads to the end and returns the result."""
        async for _ in self:
            pass
        return self.result

    async def __aiter__(self) -> AsyncGenerator[Delta, None]:
        """Yields what each message adds.

        Raises:
            QllmError: The request failed; what had come until then was yielded.
            RuntimeError: The stream was read before.
        """
        if self._is_read:
            raise RuntimeError("a stream can be read only once")
        self._is_read = True
        try:
            async for message in self._call:
                yield self._take(message)
        except grpc.aio.AioRpcError as error:
            raise self._translate(error) from None
        except asyncio.CancelledError:
            if self._is_cancelled and not _is_task_cancelled():
                raise Cancelled("the stream was cancelled by this client") from None
            raise
        finally:
            if self._result is None:
                self._call.cancel()
        if self._result is None:
            raise ServerError("the service ended the stream without saying why")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    def _take(self, message: pb.GenerateResponse) -> Delta:
        self._request_id = message.request_id or self._request_id
        delta = self._choices.take(message, self._request_id, time.perf_counter() - self._sent_s)
        self._result = self._choices.result()
        return delta


def _is_task_cancelled() -> bool:
    """Tells a cancelled task from a cancelled call: gRPC raises CancelledError for both."""
    task: asyncio.Task[Any] | None = asyncio.current_task()
    return task is not None and task.cancelling() > 0
