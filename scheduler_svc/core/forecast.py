"""Predicts how a request would fare that comes now: what decides whether it is taken in, and how many more are.

    arrival ──▶ prompts ahead of it are computed ──▶ places come free ──▶ begun ──▶ first token
    └───────────────────────────────── wait_s ───────────────────────────┘
                                                    └── soonest_s, on a worker that does nothing else ──┘

The wait is an estimate, and as if the class had the worker to itself; `soonest_s` is a bound from below. Decides
nothing.
"""

import math
from typing import NamedTuple

from scheduler_svc.core.cache.memory import Memory
from scheduler_svc.core.counters import ClassCounters
from scheduler_svc.core.policies import Ahead
from scheduler_svc.core.state.batch import Shape
from scheduler_svc.core.state.queues import BE_DECODE, BE_PREFILL, LS_DECODE, LS_PREFILL
from scheduler_svc.core.state.sequence import RequestClass, Sequence, SequenceState
from scheduler_svc.core.workload import Workload

LS = RequestClass.LATENCY_SENSITIVE


class Forecast(NamedTuple):
    """Seconds until work on a sequence begins, and seconds that its first tokens take from then on at the least."""

    begins_s: float = 0.0
    soonest_s: float = 0.0


class Forecasts:
    """Of one scheduler.

    Args:
        work: Who is there.
        memory: How many of them have room.
        counters: Of both classes; they know how long answers are.
    """

    def __init__(self, work: Workload, memory: Memory, counters: dict[RequestClass, ClassCounters]) -> None:
        self._work = work
        self._memory = memory
        self._counters = counters

    def of(self, sequence: Sequence) -> Forecast:
        """Returns the forecast of a sequence that is not queued yet; zeros until costs are known.

        Best-effort work is not refused for its wait, and who gives no deadline needs none to end at: those are zeros.
        """
        if not self._work.cost_model.is_ready:
            return Forecast()
        is_urgent, has_deadline = sequence.request_class is LS, sequence.deadline_s is not None
        return Forecast(self.wait_s(LS) if is_urgent else 0.0, self._soonest_s(sequence) if has_deadline else 0.0)

    def wait_s(self, request_class: RequestClass) -> float:
        """Predicts after how long a further request of a class would be begun, were there no other class.

        Infinite while costs are not known and anybody is ahead of it.
        """
        work, line = self._work, (LS_PREFILL, LS_DECODE) if request_class is LS else (BE_PREFILL, BE_DECODE)
        prompts, decodes = map(work.ahead, line)
        held = self._held(request_class)
        num_ahead = prompts.num_sequences + decodes.num_sequences + len(held)
        if not work.cost_model.is_ready:
            return math.inf if num_ahead else 0.0
        if not prompts.num_sequences and num_ahead < work.limits.max_num_seqs:
            return 0.0
        generating = self._generating(request_class) + Shape.of_decodes(held, num_passes=0)
        context = (generating.num_pairs + prompts.num_tokens) // num_ahead
        num_outputs = self._num_outputs(request_class, decodes)
        num_fitting = int(self._memory.pool.num_blocks * work.block_size / (context + num_outputs))
        num_places = max(1, min(work.limits.max_num_seqs, num_fitting))
        # All places generate until so many have ended that there is one.
        num_ends = max(0, num_ahead + 1 - num_places)
        full = Shape(num_places, num_places * context, num_places)
        places_s = num_ends * num_outputs / num_places * work.iteration_s(full)
        return self._prompts_s(request_class, prompts, generating) + places_s

    def _num_outputs(self, request_class: RequestClass, decodes: Ahead) -> float:
        """Predicts how many tokens an answer gets: as many as those had that have ended.

        Before any has ended nobody who is waited for is refused for a guess, so it is the least. Best-effort work that
        is not taken in can wait where it is, so it is the most that is asked for.
        """
        counters = self._counters[request_class]
        if counters.num_finished:
            return counters.num_ended_tokens / counters.num_finished
        if request_class is LS or not decodes.num_sequences:
            return 1.0
        return decodes.num_tokens / decodes.num_sequences

    def _prompts_s(self, request_class: RequestClass, prompts: Ahead, generating: Shape) -> float:
        """Predicts the prompts that are ahead, chunk by chunk, beside what generates."""
        if not prompts.num_tokens:
            return 0.0
        limits = self._work.limits
        most = limits.ls_chunk_tokens if request_class is LS else limits.be_chunk_tokens
        chunk_tokens = max(1, min(most, prompts.num_tokens))
        context = max(chunk_tokens, prompts.num_tokens // prompts.num_sequences)
        chunk_s = self._work.iteration_s(Shape.of_chunk(chunk_tokens, context, 1, 0) + generating)
        return prompts.num_tokens / chunk_tokens * chunk_s

    def _generating(self, request_class: RequestClass) -> Shape:
        """Returns one more token of each sequence of a class that generates."""
        work = self._work
        under_way = [m.sequence for batch in work.batches if batch.sequel is None for m in batch.members]
        generating = [one for one in under_way if one.output_token_ids and one.effective_class is request_class]
        return Shape.of_decodes([*work.queues[LS_DECODE if request_class is LS else BE_DECODE], *generating])

    def _held(self, request_class: RequestClass) -> list[Sequence]:
        """Returns those of a class that will generate and stand in no queue: choices and beams that wait for others."""
        live = self._work.sequences.values()
        return [s for s in live if s.state is SequenceState.HELD and s.effective_class is request_class]

    def _soonest_s(self, sequence: Sequence) -> float:
        """Predicts the first token, and those that have to follow, where nobody else is there."""
        work, num_tokens, num_new = self._work, sequence.num_tokens, 1
        if sequence.session is None:  # else all of it may have been kept
            claim = self._memory.claim(sequence, num_tokens)
            num_new = max(1, num_tokens - claim.num_found_tokens - claim.num_coming_tokens)
        further_s = work.iteration_s(Shape.of_chunk(1, num_tokens))
        return work.iteration_s(Shape.of_chunk(num_new, num_tokens)) + max(0, sequence.stop.min_tokens - 1) * further_s
