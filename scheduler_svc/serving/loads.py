"""Reads the loads of a scheduler core for operators. Changes nothing."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, replace

from scheduler_svc.core.cache.load import MemoryLoad
from scheduler_svc.core.scheduler import Scheduler
from scheduler_svc.core.state.sequence import Phase, RequestClass, Sequence, SequenceState
from scheduler_svc.generation import ClassLoad, Loads

NO_LOAD = ClassLoad(**{field.name: 0 for field in fields(ClassLoad)[:-1]})
NO_LOADS = Loads(NO_LOAD, NO_LOAD, **{field.name: 0 for field in fields(Loads)[2:-1]}, memory=MemoryLoad())


def loads_without_worker(num_waiting: Mapping[RequestClass, int]) -> Loads:
    """Returns the loads where no worker is connected: so many requests of each class wait for one."""
    waiting = {one: replace(NO_LOAD, queued_prefill=number) for one, number in num_waiting.items()}
    return replace(
        NO_LOADS,
        latency_sensitive=waiting[RequestClass.LATENCY_SENSITIVE],
        best_effort=waiting[RequestClass.BEST_EFFORT],
    )


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
        num_riders=counters.num_riders,
        num_offloads=scheduler.memory.counters.num_offloads,
        num_promotions=scheduler.work.guard.num_promotions,
        be_share=scheduler.work.guard.share(now_s),
        memory=scheduler.memory_load(),
    )


def _class_load(scheduler: Scheduler, request_class: RequestClass) -> ClassLoad:
    counters = scheduler.counters.classes[request_class]
    wait_s = scheduler.wait_s(request_class)
    places = Counter([_place(sequence) for sequence in scheduler.sequences if sequence.request_class is request_class])
    return ClassLoad(
        queued_prefill=places["queued_prefill"],
        queued_decode=places["queued_decode"],
        running=places["running"],
        offloaded=places["offloaded"],
        num_finished=counters.num_finished,
        num_generated_tokens=counters.num_generated_tokens,
        num_prompt_tokens=counters.num_prompt_tokens,
        busy_ns=counters.busy_ns,
        num_first_tokens=counters.num_first_tokens,
        num_first_tokens_in_time=counters.num_first_tokens_in_time,
        num_paced=counters.num_paced,
        num_paced_in_time=counters.num_paced_in_time,
        num_judged=counters.num_judged,
        num_attained=counters.num_attained,
        predicted_wait_ms=wait_s * 1e3 if math.isfinite(wait_s) else None,
    )


def _place(sequence: Sequence) -> str:
    """Returns where a live sequence is, as the field of ClassLoad that counts it."""
    if sequence.is_offloaded:
        return "offloaded"
    if sequence.state is SequenceState.IN_BATCH:
        return "running"
    # Thousands may wait for their first token; of them no phase need be worked out.
    is_held = sequence.state is SequenceState.HELD
    is_prefill = not sequence.output_token_ids or (sequence.phase is Phase.PREFILL and not is_held)
    return "queued_prefill" if is_prefill else "queued_decode"
