"""The settings of the engine: how it schedules, how many requests may be live, and how long they wait for a worker."""

from dataclasses import dataclass, field
from typing import Annotated

from qllm.settings import MEMORY, SCHEDULING, SERVING, Setting

from scheduler_svc.core.policies import POLICIES, Limits
from scheduler_svc.core.sessions import SessionLimits
from scheduler_svc.core.starvation import StarvationLimits
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.serving.admission import ClassLimits


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How the engine schedules, and how many requests of each class may be live."""

    policy: Annotated[
        str,
        Setting(choices=tuple(POLICIES), panel=SCHEDULING),
        "Chooses what runs next: qllm lets latency-sensitive requests stop best-effort work inside a layer, paper is "
        "the published algorithm, priority-iteration lets them go first but only between iterations, and fcfs ignores "
        "the class of a request.",
    ] = "qllm"
    preempt_at: Annotated[
        PreemptAt,
        Setting(panel=SCHEDULING),
        "Chooses where running work may be stopped: before any expert, before any layer, or only at the end of an "
        "iteration. With the policies priority-iteration and fcfs it is always the end of an iteration.",
    ] = PreemptAt.EXPERT
    limits: Limits = field(default_factory=Limits)
    starvation: StarvationLimits = field(default_factory=StarvationLimits)
    sessions: SessionLimits = field(default_factory=SessionLimits)
    max_ls_requests: Annotated[
        int,
        Setting(1, 1 << 20, panel=MEMORY),
        "Limits how many latency-sensitive requests may run or wait at a time. Further ones are refused at once.",
    ] = 1024
    max_be_requests: Annotated[
        int,
        Setting(1, 1 << 20, panel=MEMORY),
        "Limits how many best-effort requests may run or wait at a time. Further ones are refused at once. One that "
        "waits takes some 30 KiB of memory, and 8 bytes more for each token of its prompt.",
    ] = 4096
    max_ls_tokens: Annotated[
        int,
        Setting(0, 1 << 40, panel=MEMORY),
        "Limits the tokens of all latency-sensitive requests that run or wait: those of their prompts, and as many "
        "more as they may generate. Further requests are refused at once. With 0 there is no limit.",
    ] = 1 << 24
    max_be_tokens: Annotated[
        int,
        Setting(0, 1 << 40, panel=MEMORY),
        "Limits the tokens of all best-effort requests that run or wait: those of their prompts, and as many more as "
        "they may generate. Further requests are refused at once. With 0 there is no limit.",
    ] = 1 << 24
    ls_max_wait_s: Annotated[
        float,
        Setting(0, 86_400, panel=MEMORY),
        "Refuses a latency-sensitive request at once if it is predicted to wait longer than so many seconds before it "
        "is begun, and says when to come back. With 0 it may wait however long.",
    ] = 30.0
    prefix_caching: Annotated[
        bool,
        Setting(panel=MEMORY),
        "Lets requests whose prompts begin with equal tokens share what is cached of them, so that only the rest of "
        "each prompt is computed. Requests whose cache_salt differs never share. Where a model can't share, the log "
        "says why.",
    ] = True
    worker_wait_s: Annotated[
        float,
        Setting(0, 3600, panel=SERVING),
        "Sets for how many seconds requests wait for a worker when the one that served is gone or makes no progress. "
        "Those that run go on with the next worker where they were, and new ones begin there. After that time they "
        "end with UNAVAILABLE (HTTP 503).",
    ] = 60.0

    @property
    def class_limits(self) -> dict[RequestClass, ClassLimits]:
        """What the live requests of each class may have."""
        return {
            RequestClass.LATENCY_SENSITIVE: ClassLimits(self.max_ls_requests, self.max_ls_tokens, self.ls_max_wait_s),
            RequestClass.BEST_EFFORT: ClassLimits(self.max_be_requests, self.max_be_tokens),
        }
