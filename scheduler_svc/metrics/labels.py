"""The words that tell samples of one metric apart."""

from scheduler_svc.core.state.sequence import FinishReason, RequestClass

PREFIX = "qllm:"
CLASS = "class"
CLASSES = {RequestClass.LATENCY_SENSITIVE: "ls", RequestClass.BEST_EFFORT: "be"}
# None: the worker could not finish it.
FINISH_REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.ABORTED: "abort",
    None: "error",
}
