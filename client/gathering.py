"""Puts the messages of a stream together, choice by choice. Knows nothing of channels and calls."""

from dataclasses import replace

from qllm.client.beams import decode_hypotheses
from qllm.client.encoding import decode_prompt_logprobs, decode_top_logprobs, decode_usage
from qllm.client.finish_reasons import decode_finish_reason
from qllm.client.messages import Delta, GenerationResult
from qllm.client.tools import decode_calls
from qllm.v1 import inference_pb2 as pb


def decode_delta(message: pb.GenerateResponse) -> Delta:
    """Translates what a message adds to its choice."""
    return Delta(
        text=message.text,
        token_ids=tuple(message.token_ids),
        logprobs=tuple(message.logprobs),
        top_logprobs=decode_top_logprobs(message),
        tool_calls=decode_calls(message),
        reasoning=message.reasoning,
        hypotheses=decode_hypotheses(message),
        prompt_logprobs=decode_prompt_logprobs(message),
        choice_index=message.choice_index,
    )


class Gathering:
    """What has come of one choice."""

    def __init__(self) -> None:
        self._deltas: list[Delta] = []
        self._ttft_s: float | None = None

    def add(self, delta: Delta, since_sent_s: float) -> None:
        """Takes what a message added, which came so many seconds after the request was sent."""
        if delta.token_ids and self._ttft_s is None:
            self._ttft_s = since_sent_s
        self._deltas.append(delta)

    def conclude(self, request_id: str, finish: pb.Finish, since_sent_s: float) -> GenerationResult:
        """Returns the whole choice, whose last message has come."""
        deltas = self._deltas
        return GenerationResult(
            request_id=request_id,
            text="".join(delta.text for delta in deltas),
            token_ids=tuple(token_id for delta in deltas for token_id in delta.token_ids),
            logprobs=tuple(logprob for delta in deltas for logprob in delta.logprobs),
            finish_reason=decode_finish_reason(finish.reason),
            stop_string=finish.stop_string or None,
            usage=decode_usage(finish.usage),
            ttft_s=self._ttft_s,
            e2e_s=since_sent_s,
            top_logprobs=tuple(top for delta in deltas for top in delta.top_logprobs),
            tool_calls=tuple(call for delta in deltas for call in delta.tool_calls),
            reasoning="".join(delta.reasoning for delta in deltas),
            prompt_logprobs=tuple(token for delta in deltas for token in delta.prompt_logprobs),
            hypotheses=tuple(one for delta in deltas for one in delta.hypotheses),
        )


class Choices:
    """The choices of one stream, of which there are so many."""

    def __init__(self, num_choices: int) -> None:
        self._num_choices = num_choices
        self._parts: dict[int, Gathering] = {}
        self._wholes: dict[int, GenerationResult] = {}

    def take(self, message: pb.GenerateResponse, request_id: str, since_sent_s: float) -> Delta:
        """Takes the next message, and returns what it adds."""
        delta = decode_delta(message)
        choice = self._parts.setdefault(delta.choice_index, Gathering())
        choice.add(delta, since_sent_s)
        if message.HasField("finish"):
            self._wholes[delta.choice_index] = choice.conclude(request_id, message.finish, since_sent_s)
        return delta

    def result(self) -> GenerationResult | None:
        """Returns the first choice, with the others, once all are whole; None until then."""
        if len(self._wholes) < self._num_choices:
            return None
        first, *others = (self._wholes[index] for index in sorted(self._wholes))
        return replace(first, others=tuple(others)) if others else first
