"""One request's tokens on their way from the engine to a front end.

A slow reader costs no memory beyond the tokens themselves: what it has not read yet is handed over as one event. Knows nothing
of text or gRPC.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from scheduler_svc.core.results import TokenOutput
from scheduler_svc.core.sequence import FinishReason, Usage
from scheduler_svc.errors import ServiceError
from scheduler_svc.generation import TokenEvent


class BufferedTokenStream:
    """The engine's end of a TokenStream.

    Args:
        usage: Returns what the request has used so far.
        on_close: Called once when the reader leaves before the end.
    """

    def __init__(self, usage: Callable[[], Usage], on_close: Callable[[], None]) -> None:
        self._usage = usage
        self._on_close = on_close
        self._changed = asyncio.Event()
        self._token_ids: list[int] = []
        self._logprobs: list[float] = []
        self._finish_reason: FinishReason | None = None
        self._final_usage: Usage | None = None
        self._error: ServiceError | None = None
        self._is_over = False

    def push(self, output: TokenOutput) -> None:
        """Adds a token; with a finish reason it is the last."""
        self._token_ids.append(output.token_id)
        self._logprobs.append(output.logprob)
        if output.finish_reason is not None and output.usage is not None:
            self.finish(output.finish_reason, output.usage)
        self._changed.set()

    def finish(self, reason: FinishReason, usage: Usage) -> None:
        """Ends the stream in good order."""
        self._finish_reason, self._final_usage, self._is_over = reason, usage, True
        self._changed.set()

    def fail(self, error: ServiceError) -> None:
        """Ends the stream with an error, after the tokens pushed so far."""
        self._error, self._is_over = error, True
        self._changed.set()

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        """Yields what has come since the last event, until the end; raises the error that ended the stream."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            token_ids, self._token_ids = self._token_ids, []
            logprobs, self._logprobs = self._logprobs, []
            # What comes while the reader holds an event belongs to the next one, the end included.
            finish_reason, error = self._finish_reason, self._error
            if token_ids or finish_reason is not None:
                yield TokenEvent(tuple(token_ids), tuple(logprobs), finish_reason, self._final_usage)
            if finish_reason is not None:
                return
            if error is not None:
                raise error

    def usage(self) -> Usage:
        """Returns what the request has used so far."""
        return self._final_usage or self._usage()

    def close(self) -> None:
        """Aborts the request if it is live."""
        if not self._is_over:
            self._is_over = True
            self._on_close()
