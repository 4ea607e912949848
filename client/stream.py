"""One generation as it happens: owns the call that brings its tokens, and ends that call when nobody reads on."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Any, Self

import grpc
from qllm.client.beams import decode_hypotheses
from qllm.client.encoding import decode_prompt_logprobs, decode_top_logprobs, decode_usage
from qllm.client.errors import Cancelled, QllmError, ServerError, error_from_rpc
from qllm.client.finish_reasons import decode_finish_reason
from qllm.client.messages import Delta, GenerationResult
from qllm.client.tools import decode_calls
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
    ) -> None:
        self._call = call
        self._request_id = request_id
        self._translate = translate
        self._sent_s = time.perf_counter()
        self._first_token_s: float | None = None
        self._deltas: list[Delta] = []
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
        now_s = time.perf_counter()
        if message.token_ids and self._first_token_s is None:
            self._first_token_s = now_s
        self._request_id = message.request_id or self._request_id
        tops = decode_top_logprobs(message)
        delta = Delta(
            text=message.text,
            token_ids=tuple(message.token_ids),
            logprobs=tuple(message.logprobs),
            top_logprobs=tops,
            tool_calls=decode_calls(message),
            reasoning=message.reasoning,
            hypotheses=decode_hypotheses(message),
            prompt_logprobs=decode_prompt_logprobs(message),
        )
        self._deltas.append(delta)
        if message.HasField("finish"):
            self._result = self._conclude(message.finish, now_s)
        return delta

    def _conclude(self, finish: pb.Finish, now_s: float) -> GenerationResult:
        return GenerationResult(
            request_id=self._request_id,
            text="".join(delta.text for delta in self._deltas),
            token_ids=tuple(token_id for delta in self._deltas for token_id in delta.token_ids),
            logprobs=tuple(logprob for delta in self._deltas for logprob in delta.logprobs),
            finish_reason=decode_finish_reason(finish.reason),
            stop_string=finish.stop_string or None,
            usage=decode_usage(finish.usage),
            ttft_s=None if self._first_token_s is None else self._first_token_s - self._sent_s,
            e2e_s=now_s - self._sent_s,
            top_logprobs=tuple(top for delta in self._deltas for top in delta.top_logprobs),
            tool_calls=tuple(call for delta in self._deltas for call in delta.tool_calls),
            reasoning="".join(delta.reasoning for delta in self._deltas),
            prompt_logprobs=tuple(token for delta in self._deltas for token in delta.prompt_logprobs),
            hypotheses=tuple(one for delta in self._deltas for one in delta.hypotheses),
        )


def _is_task_cancelled() -> bool:
    """Tells a cancelled task from a cancelled call: gRPC raises CancelledError for both."""
    task: asyncio.Task[Any] | None = asyncio.current_task()
    return task is not None and task.cancelling() > 0
