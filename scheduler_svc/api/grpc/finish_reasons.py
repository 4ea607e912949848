"""Why texts end, as it goes over the wire."""

from qllm.v1 import inference_pb2 as pb

from scheduler_svc.core.state.sequence import FinishReason

FINISH_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.ABORTED: pb.FINISH_REASON_ABORTED,
}
