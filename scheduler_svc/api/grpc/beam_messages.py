"""Turns BeamSearch into a draft, and what was found into messages."""

from qllm.v1 import inference_pb2 as pb

from scheduler_svc.api.deltas import Delta
from scheduler_svc.api.draft import BeamDraft
from scheduler_svc.api.grpc.chats import call_message
from scheduler_svc.api.grpc.finish_reasons import finish_reason
from scheduler_svc.core.beams.params import EarlyStopping
from scheduler_svc.errors import InvalidRequest

_EARLY_STOPPING = {
    pb.EARLY_STOPPING_UNSPECIFIED: EarlyStopping.NO,
    pb.EARLY_STOPPING_NO: EarlyStopping.NO,
    pb.EARLY_STOPPING_YES: EarlyStopping.YES,
    pb.EARLY_STOPPING_NEVER: EarlyStopping.NEVER,
}


def beam_draft(given: pb.BeamSearch) -> BeamDraft:
    """Returns what the message asks for; raises InvalidRequest for an unknown way to stop."""
    early_stopping = _EARLY_STOPPING.get(given.early_stopping)
    if early_stopping is None:
        names = ", ".join(f"{number} ({pb.EarlyStopping.Name(number)})" for number in _EARLY_STOPPING)
        raise InvalidRequest("beam_search.early_stopping", given.early_stopping, names)
    return BeamDraft(
        beam_width=given.beam_width,
        num_returned=given.num_returned if given.HasField("num_returned") else None,
        length_penalty=given.length_penalty if given.HasField("length_penalty") else None,
        early_stopping=early_stopping,
        patience=given.patience if given.HasField("patience") else None,
    )


def hypothesis_message(delta: Delta) -> pb.Hypothesis:
    """Returns a text that was found as it goes over the wire."""
    message = pb.Hypothesis(
        text=delta.text,
        token_ids=delta.token_ids,
        logprobs=delta.logprobs,
        score=delta.score or 0.0,
        tool_calls=map(call_message, delta.calls),
        reasoning=delta.reasoning,
    )
    if delta.finish is not None:
        message.reason, message.stop_string = finish_reason(delta.finish), delta.finish.stop_string or ""
    return message
