"""Turns the token events of one request into the messages of its stream: text deltas, numbering, stop strings, usage.

Pure: knows nothing of sockets, time or the engine.
"""

from dataclasses import replace

from qllm.v1 import inference_pb2 as pb

from scheduler_svc.core.sequence import FinishReason, Usage
from scheduler_svc.detokenizer import TextAssembler, TextDelta
from scheduler_svc.generation import TokenEvent

_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.ABORTED: pb.FINISH_REASON_ABORTED,
}


class ResponseBuilder:
    """Builds the messages of one stream.

    Attributes:
        stop_string: The stop string that was met; the stream is over then, and `finish` says so to the caller.
    """

    def __init__(self, request_id: str, assembler: TextAssembler) -> None:
        self._request_id = request_id
        self._assembler = assembler
        self._sequence_number = 0
        self._num_tokens = 0
        self.stop_string: str | None = None

    def step(self, event: TokenEvent, usage: Usage) -> pb.GenerateResponse:
        """Returns the message for `event`; it has `finish` if the event is the last or a stop string is met in it.

        Args:
            event: The tokens since the last event.
            usage: What the request has used, for an event that does not carry it.
        """
        text, num_used = self._text(event)
        self._num_tokens += num_used
        response = pb.GenerateResponse(
            request_id=self._request_id,
            sequence_number=self._sequence_number,
            text=text,
            token_ids=event.token_ids[:num_used],
            logprobs=event.logprobs[:num_used],
        )
        self._sequence_number += 1
        reason = event.finish_reason if self.stop_string is None else FinishReason.STOP
        if reason is not None:
            response.finish.CopyFrom(self._finish(reason, event.usage or usage))
        return response

    def _text(self, event: TokenEvent) -> tuple[str, int]:
        """Returns the event's text up to a stop string, and the number of tokens that it took."""
        # The token that ends the text by being a stop token is reported, but is not text.
        num_text = len(event.token_ids) - (event.finish_reason is FinishReason.STOP)
        pieces: list[str] = []
        for index in range(num_text):
            if self._take(self._assembler.push(event.token_ids[index]), pieces):
                return "".join(pieces), index + 1
        if event.finish_reason is not None:
            self._take(self._assembler.finish(), pieces)
        return "".join(pieces), len(event.token_ids)

    def _take(self, delta: TextDelta, pieces: list[str]) -> bool:
        """Adds the delta's text to `pieces`; returns whether a stop string was met."""
        pieces.append(delta.text)
        self.stop_string = delta.stop_string
        return delta.stop_string is not None

    def _finish(self, reason: FinishReason, usage: Usage) -> pb.Finish:
        # The engine may have run on past a stop string: only what was reported counts.
        return pb.Finish(
            reason=_REASONS[reason],
            stop_string=self.stop_string or "",
            usage=usage_message(replace(usage, num_output_tokens=self._num_tokens)),
        )


def usage_message(usage: Usage) -> pb.Usage:
    """Returns the usage as it goes over the wire, in milliseconds."""
    return pb.Usage(
        prompt_tokens=usage.num_prompt_tokens,
        completion_tokens=usage.num_output_tokens,
        queue_ms=usage.queue_s * 1e3,
        prefill_ms=usage.prefill_s * 1e3,
        decode_ms=usage.decode_s * 1e3,
        num_preemptions=usage.num_preemptions,
    )
