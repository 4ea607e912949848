"""Reads the loads of a scheduler core for operators. Changes nothing."""

from collections import Counter

from scheduler_svc.core.scheduler import Scheduler
from scheduler_svc.core.state.sequence import Phase, RequestClass, SequenceState
from scheduler_svc.generation import ClassLoad, Loads

NO_LOAD = ClassLoad(0, 0, 0, 0, 0, 0, 0, 0)
NO_LOADS = Loads(NO_LOAD, NO_LOAD, 0, 0, 0.0, 0.0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0)


def read_loads(scheduler: Scheduler, now_s: float) -> Loads:
    """Returns the loads now, and the counters since the scheduler's worker joined."""
    counters = scheduler.counters
    pool = scheduler.memory.pool
    return Loads(
        latency_sensitive=_class_load(scheduler, RequestClass.LATENCY_SENSITIVE),
        best_effort=_class_load(scheduler, RequestClass.BEST_EFFORT),
        total_blocks=pool.num_blocks,
        free_blocks=pool.num_free,
        outstanding_ms=scheduler.window.outstanding_s(now_s) * 1e3,
        wait_bound_ms=scheduler.wait_bound_s * 1e3,
        busy_ns=counters.busy_ns,
        control_idle_ns=counters.control_idle_ns,
        num_commands=counters.num_commands,
        num_iterations=counters.num_iterations,
        num_preemptions_at_layer=counters.num_preemptions_at_layer,
        num_preemptions_at_expert=counters.num_preemptions_at_expert,
        num_joins=counters.num_joins,
        num_offloads=scheduler.memory.num_offloads,
        num_promotions=scheduler.work.guard.num_promotions,
        be_share=scheduler.work.guard.share(now_s),
    )


def _class_load(scheduler: Scheduler, request_class: RequestClass) -> ClassLoad:
    counters = scheduler.counters.classes[request_class]
    members = [s for s in scheduler.sequences if s.request_class is request_class]
    phases = Counter(s.phase for s in members if s.state is SequenceState.QUEUED and not s.is_offloaded)
    return ClassLoad(
        queued_prefill=phases[Phase.PREFILL],
        queued_decode=phases[Phase.DECODE],
        running=sum(s.state is SequenceState.IN_BATCH and not s.is_offloaded for s in members),
        offloaded=sum(s.is_offloaded for s in members),
        num_finished=counters.num_finished,
        num_generated_tokens=counters.num_generated_tokens,
        num_prompt_tokens=counters.num_prompt_tokens,
        busy_ns=counters.busy_ns,
    )
