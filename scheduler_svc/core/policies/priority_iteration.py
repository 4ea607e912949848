"""Priority without preemption inside an iteration: what vLLM's and SGLang's priorities do. For comparison."""

from scheduler_svc.core.policies.qllm import Qllm
from scheduler_svc.core.state.cursor import PreemptAt


class PriorityIteration(Qllm):
    """The default policy, but work is left only between iterations."""

    name = "priority-iteration"
    preempt_at = PreemptAt.ITERATION
