"""The baseline: iteration-level first come, first served, which ignores the class.

Continuous batching with chunked prefill. Source: Yu et al., Orca, OSDI 2022; Agrawal et al.,
Sarathi-Serve, arXiv 2403.02310.
"""

from collections.abc import Iterator

from scheduler_svc.core.policies.base import BatchPlan, Choice, Policy, View
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.core.state.queues import BE_DECODE, BE_PREFILL
from scheduler_svc.core.state.sequence import RequestClass, Sequence


class Fcfs(Policy):
    """One queue for all, decodes before prefill chunks, whole iterations."""

    name = "fcfs"
    preempt_at = PreemptAt.ITERATION
    be_sequel_margin = 0.05

    def queue_class(self, sequence: Sequence) -> RequestClass:
        """Everybody stands in the same line."""
        return RequestClass.BEST_EFFORT

    def preferences(self, view: View) -> Iterator[Choice]:
        """The batch under way, or the next one, of all decodes and as much prefill as fits."""
        yield from self.best_effort(view, _plan)


def _plan(view: View) -> BatchPlan:
    return BatchPlan((BE_DECODE, BE_PREFILL), view.limits.max_num_seqs, view.limits.be_chunk_tokens)
