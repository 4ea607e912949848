"""Why texts end, as it comes over the wire."""

from qllm.client.messages import FinishReason
from qllm.v1 import inference_pb2 as pb

_FINISH_REASONS = {
    pb.FINISH_REASON_STOP: FinishReason.STOP,
    pb.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    pb.FINISH_REASON_ABORTED: FinishReason.ABORTED,
    pb.FINISH_REASON_TOOL_CALLS: FinishReason.TOOL_CALLS,
}


def decode_finish_reason(reason: pb.FinishReason.ValueType) -> FinishReason:
    """Translates the reason why a text ended; one that is not known here counts as a stop."""
    return _FINISH_REASONS.get(reason, FinishReason.STOP)
