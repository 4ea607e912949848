"""Why texts end, as it goes over the wire."""

from qllm.v1 import inference_pb2 as pb

from scheduler_svc.api.deltas import Finish
from scheduler_svc.core.state.sequence import FinishReason

_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.ABORTED: pb.FINISH_REASON_ABORTED,
}


def finish_reason(finish: Finish) -> pb.FinishReason.ValueType:
    """Returns why a text ended."""
    return pb.FINISH_REASON_TOOL_CALLS if finish.has_calls else _REASONS[finish.reason]
