"""Predicts how a latency-sensitive request would fare that comes now: what decides whether it is taken in at all.

    arrival ──▶ prompts ahead of it are computed ──▶ places come free ──▶ begun ──▶ first token
    └────────────────────────── begins_s ────────────────────────────────┘
                                                    └── soonest_s, on a worker that does nothing else ──┘

`begins_s` is an estimate, `soonest_s` a bound from below. Best-effort work is left out: it takes what is left over, and
its least share. Decides nothing.
"""

from typing import NamedTuple

from scheduler_svc.core.cache.memory import Memory
from scheduler_svc.core.counters import ClassCounters
from scheduler_svc.core.policies import Ahead
from scheduler_svc.core.state.batch import Shape
from scheduler_svc.core.state.queues import LS_DECODE, LS_PREFILL
from scheduler_svc.core.state.sequence import RequestClass, Sequence
from scheduler_svc.core.workload import Workload

LS = RequestClass.LATENCY_SENSITIVE


class Forecast(NamedTuple):
    """Seconds until work on a sequence begins, and seconds that its first tokens take from then on at the least."""

    begins_s: float = 0.0
    soonest_s: float = 0.0


def foresee(work: Workload, memory: Memory, counters: ClassCounters, sequence: Sequence) -> Forecast:
    """Returns the forecast of a sequence that is not queued yet; zeros until costs are known.

    Best-effort work has no time to begin at, and who gives no deadline needs none to end at: those are zeros too.
    """
    if not work.cost_model.is_ready:
        return Forecast()
    is_urgent, has_deadline = sequence.request_class is LS, sequence.deadline_s is not None
    begins_s = _begins_s(work, memory, counters) if is_urgent else 0.0
    return Forecast(begins_s, _soonest_s(work, memory, sequence) if has_deadline else 0.0)


def _begins_s(work: Workload, memory: Memory, counters: ClassCounters) -> float:
    prompts, decodes = work.ahead(LS_PREFILL), work.ahead(LS_DECODE)
    num_ahead = prompts.num_sequences + decodes.num_sequences
    if not prompts.num_sequences and num_ahead < work.limits.max_num_seqs:
        return 0.0
    generating = _decodes(work)
    context = (generating.num_pairs + prompts.num_tokens) // num_ahead
    num_outputs = counters.num_generated_tokens / counters.num_finished if counters.num_finished else 1.0
    num_fitting = int(memory.pool.num_blocks * work.block_size / (context + num_outputs))
    num_places = max(1, min(work.limits.max_num_seqs, num_fitting))
    return _prompts_s(work, prompts, generating) + _places_s(work, num_ahead, num_places, context, num_outputs)


def _prompts_s(work: Workload, prompts: Ahead, generating: Shape) -> float:
    """Predicts the prompts that are ahead, chunk by chunk, beside what generates."""
    if not prompts.num_tokens:
        return 0.0
    chunk_tokens = min(work.limits.ls_chunk_tokens, prompts.num_tokens)
    context = max(chunk_tokens, prompts.num_tokens // prompts.num_sequences)
    chunk_s = work.iteration_s(Shape.of_chunk(chunk_tokens, context, 1, 0) + generating)
    return prompts.num_tokens / chunk_tokens * chunk_s


def _places_s(work: Workload, num_ahead: int, num_places: int, context: int, num_outputs: float) -> float:
    """Predicts how long it takes until so many answers have ended that there is a place: all places generate."""
    num_ends = max(0, num_ahead + 1 - num_places)
    full = Shape(num_places, num_places * context, num_places)
    return num_ends * num_outputs / num_places * work.iteration_s(full)


def _decodes(work: Workload) -> Shape:
    """Returns one more token of each latency-sensitive sequence that generates."""
    under_way = [m.sequence for batch in work.of_class(LS) if batch.sequel is None for m in batch.members]
    generating = [one for one in under_way if one.output_token_ids and one.effective_class is LS]
    return Shape.of_decodes([*work.queues[LS_DECODE], *generating])


def _soonest_s(work: Workload, memory: Memory, sequence: Sequence) -> float:
    """Predicts the first token, and those that have to follow, where nobody else is there."""
    num_tokens, num_new = sequence.num_tokens, 1
    if sequence.session is None:  # else all of it may have been kept
        claim = memory.claim(sequence, num_tokens)
        num_new = max(1, num_tokens - claim.num_found_tokens - claim.num_coming_tokens)
    further_s = work.iteration_s(Shape.of_chunk(1, num_tokens))
    return work.iteration_s(Shape.of_chunk(num_new, num_tokens)) + max(0, sequence.stop.min_tokens - 1) * further_s
