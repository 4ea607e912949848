"""Algorithm 1 as published: at most B sequences a batch, whole prompts, latency-sensitive work padded with best-effort.

Source: arXiv 2503.09304, Algorithm 1. The policy keeps its weak points on purpose: best-effort prefill waits until
every best-effort decode has drained, and a latency-sensitive prefill is padded with best-effort prompts.
"""

from collections.abc import Iterator

from scheduler_svc.core.policies.base import BatchPlan, Choice, Policy, View
from scheduler_svc.core.state.queues import BE_DECODE, BE_PREFILL, LS_DECODE, LS_PREFILL
from scheduler_svc.core.state.sequence import RequestClass

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT


_BATCH_SIZE = 32


class Paper(Policy):
    """The published algorithm; B is 32 as published, or `max_num_seqs` where that is less."""

    name = "paper"

    def preferences(self, view: View) -> Iterator[Choice]:
        """A latency-sensitive batch under way, a new one, a preempted best-effort batch, a new one."""
        if batch := view.open_batch(LS):
            yield batch
            return
        if view.awaits_result(LS):
            return
        size = min(view.limits.max_num_seqs, _BATCH_SIZE)
        if view.num_waiting(LS_DECODE) >= size:  # line 1
            yield BatchPlan((LS_DECODE,), size)
        if view.num_waiting(LS_PREFILL):  # line 2
            yield BatchPlan((LS_PREFILL, BE_PREFILL), size)
        if view.num_waiting(LS_DECODE):  # line 3, also where memory is short for line 2
            yield BatchPlan((LS_DECODE, BE_DECODE), size)
        if batch := view.open_batch(BE):
            yield batch
        elif not view.awaits_result(BE):
            yield BatchPlan((BE_DECODE,) if view.num_waiting(BE_DECODE) else (BE_PREFILL,), size)  # lines 4 and 5
