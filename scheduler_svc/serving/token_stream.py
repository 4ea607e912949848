"""One request's tokens on their way from the engine to a front end.

A slow reader costs no memory beyond the tokens themselves: what it has not read yet is handed over as one event.
Knows nothing of text or gRPC.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from scheduler_svc.core.state.prompt_scores import PromptScores, joined_scores
from scheduler_svc.core.state.results import HypothesesOutput, Hypothesis, PromptOutput, TokenOutput
from scheduler_svc.core.state.sequence import FinishReason, RequestClass, Usage
from scheduler_svc.errors import ServiceError
from scheduler_svc.generation import TokenEvent
from scheduler_svc.serving.fan_out import FanOut


class BufferedTokenStream:
    """The engine's end of a TokenStream, with one reader.

    Args:
        request_class: Whose readers it is released with.
        fan_out: Says when the reader may go on.
        usage: Returns what the request has used so far.
        on_close: Called once when the reader leaves before the end, with why it does.
        on_call: Called with each tool that the answer calls.
    """

    def __init__(
        self,
        request_class: RequestClass,
        fan_out: FanOut,
        usage: Callable[[], Usage],
        on_close: Callable[[FinishReason], None],
        on_call: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._on_call = on_call
        self._request_class = request_class
        self._fan_out = fan_out
        self._usage = usage
        self._on_close = on_close
        self._waiting: asyncio.Future[None] | None = None
        self._has_news = False
        self._outputs: list[TokenOutput] = []
        self._scores: list[PromptScores] = []
        self._hypotheses: tuple[Hypothesis, ...] = ()
        self._finish_reason: FinishReason | None = None
        self._final_usage: Usage | None = None
        self._error: ServiceError | None = None
        self._is_over = False

    def push(self, output: TokenOutput | PromptOutput) -> None:
        """Adds a token, or what was found of the prompt; with a finish reason it is the last."""
        if isinstance(output, TokenOutput):
            self._outputs.append(output)
        elif output.scores is not None:
            self._scores.append(output.scores)
        if output.finish_reason is not None and output.usage is not None:
            self.finish(output.finish_reason, output.usage)
        else:
            self._tell()

    def answer(self, output: HypothesesOutput) -> None:
        """Ends the stream with the texts that were found."""
        self._hypotheses = output.hypotheses
        self.finish(output.hypotheses[0].finish_reason, output.usage)

    def finish(self, reason: FinishReason, usage: Usage) -> None:
        """Ends the stream in good order."""
        self._finish_reason, self._final_usage, self._is_over = reason, usage, True
        self._tell()

    def fail(self, error: ServiceError) -> None:
        """Ends the stream with an error, after the tokens pushed so far."""
        self._error, self._is_over = error, True
        self._tell()

    def _tell(self) -> None:
        """Notes that there is something to read; a reader that waits for it is released when its turn comes."""
        if not self._has_news:
            self._has_news = True
            if self._waiting is not None:
                self._fan_out.put(self._request_class, self._release)

    def _release(self) -> None:
        if self._waiting is not None and not self._waiting.done():  # it may have been cancelled
            self._waiting.set_result(None)

    async def _news(self) -> None:
        """Waits until there is something to read and it is this reader's turn."""
        self._waiting = asyncio.get_running_loop().create_future()
        if self._has_news:
            self._fan_out.put(self._request_class, self._release)
        try:
            await self._waiting
        finally:
            self._waiting = None
        self._has_news = False

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        """Yields what has come since the last event, until the end; raises the error that ended the stream."""
        while True:
            await self._news()
            outputs, self._outputs = self._outputs, []
            scores, self._scores = self._scores, []
            # What comes while the reader holds an event belongs to the next one, the end included.
            finish_reason, error = self._finish_reason, self._error
            if finish_reason is not None and self._hypotheses:
                best = self._hypotheses[0]
                told = best.token_ids, best.logprobs, finish_reason, self._final_usage
                yield TokenEvent(*told, hypotheses=self._hypotheses)
            elif outputs or scores or finish_reason is not None:
                token_ids = tuple([output.token_id for output in outputs])
                logprobs = tuple([output.logprob for output in outputs])
                tops = tuple([output.top for output in outputs]) if outputs and outputs[0].top else ()
                of_prompt = joined_scores(scores)
                yield TokenEvent(token_ids, logprobs, finish_reason, self._final_usage, tops, of_prompt)
            if finish_reason is not None:
                return
            if error is not None:
                raise error

    def usage(self) -> Usage:
        """Returns what the request has used so far."""
        return self._final_usage or self._usage()

    def calls(self, tool: str) -> None:
        """Takes in that the answer calls a tool."""
        self._on_call(tool)

    def close(self, reason: FinishReason = FinishReason.ABORTED) -> None:
        """Ends the request if it is live."""
        if not self._is_over:
            self._is_over = True
            self._on_close(reason)
