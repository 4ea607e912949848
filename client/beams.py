"""Translates what a beam search is asked for, and what it found. Knows nothing of channels and calls."""

from qllm.client.checking import refusal
from qllm.client.finish_reasons import decode_finish_reason
from qllm.client.messages import GenerateOptions, Hypothesis
from qllm.client.tools import decode_calls
from qllm.v1 import inference_pb2 as pb

_EARLY_STOPPING: dict[object, pb.EarlyStopping.ValueType] = {
    None: pb.EARLY_STOPPING_UNSPECIFIED,
    False: pb.EARLY_STOPPING_NO,
    True: pb.EARLY_STOPPING_YES,
    "never": pb.EARLY_STOPPING_NEVER,
}
_DETAILS = ("num_returned", "length_penalty", "early_stopping", "patience")


def encode_beam_search(options: GenerateOptions) -> pb.BeamSearch | None:
    """Returns the search; None where none is asked for, and InvalidRequest for what goes along with one only."""
    width = options.get("beam_width")
    if width is None:
        for name in _DETAILS:
            if (given := options.get(name)) is not None:
                raise refusal(name, given, "one together with beam_width only")
        return None
    return pb.BeamSearch(
        beam_width=width,
        num_returned=options.get("num_returned"),
        length_penalty=options.get("length_penalty"),
        early_stopping=_EARLY_STOPPING[options.get("early_stopping")],
        patience=options.get("patience"),
    )


def decode_hypotheses(message: pb.GenerateResponse) -> tuple[Hypothesis, ...]:
    """Translates the texts that a beam search found; empty where there was none."""
    return tuple(
        Hypothesis(
            text=one.text,
            token_ids=tuple(one.token_ids),
            logprobs=tuple(one.logprobs),
            score=one.score,
            finish_reason=decode_finish_reason(one.reason),
            stop_string=one.stop_string or None,
            tool_calls=decode_calls(one),
            reasoning=one.reasoning,
        )
        for one in message.hypotheses
    )
