"""The default policy: latency-sensitive work first, best-effort work stopped inside a layer, taken along where cheap.

Rules R1 to R7 of the design, as far as they are choices; the mechanisms behind them are the scheduler's. Source: arXiv
2503.09304, section 3, gone beyond in chunked prefill, bounded stretch and the guard against starvation.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from scheduler_svc.core.policies.base import BatchPlan, Choice, Policy, Sequel, View
from scheduler_svc.core.state.batch import Batch
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.core.state.queues import BE_DECODE, BE_PREFILL, LS_DECODE, LS_PREFILL
from scheduler_svc.core.state.sequence import RequestClass

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
_LS_SEQUEL_MARGIN = 0.2
_PROMPT_SHARE = 0.25  # of the iterations that decodes still need; who waits for a first token does not decode meanwhile


class Qllm(Policy):
    """Latency-sensitive first, with a bounded wait and a floor under best-effort work."""

    name = "qllm"
    be_sequel_margin = 0.05

    def preferences(self, view: View) -> Iterator[Choice]:
        """Best-effort work where it is owed, then latency-sensitive work, then best-effort work."""
        limits = view.limits
        if view.owes_best_effort():
            yield from self.best_effort(view, _best_effort_plan)
        # A prompt takes no best-effort work along, unless a target says how long a token may take.
        filler = (BE_DECODE, BE_PREFILL) if limits.ls_tpot_s or not view.num_waiting(LS_PREFILL) else ()
        # Who streams goes on in every iteration; a prompt is begun where there is a place for its decode as well.
        max_tokens = limits.ls_chunk_tokens + view.num_waiting(LS_DECODE)
        plan = BatchPlan((LS_DECODE, LS_PREFILL), limits.max_num_seqs, max_tokens, filler)
        if batch := view.open_batch(LS):
            yield batch
        elif view.awaits_result(LS):
            if not view.num_waiting(LS_PREFILL) and not view.num_waiting(LS_DECODE):
                # Whoever waits takes part in the next iteration, which a sequel would put off by one more, and so on.
                # Nobody else from the queues: room might be made for them by taking blocks of who goes on.
                yield Sequel(LS, partial(replace, plan, sources=()), _LS_SEQUEL_MARGIN)
            return  # best-effort work sent now would stand before the next step
        else:
            yield plan
        yield from self.best_effort(view, _best_effort_plan)

    def companions(self, view: View, batch: Batch) -> Iterator[Batch]:
        """A suspended best-effort batch at or ahead of the latency-sensitive one, and cheap to take along."""
        other = view.open_batch(BE)
        if other is None or batch.request_class is BE or not other.is_suspended or other.issued < batch.issued:
            return
        if other.is_resident and view.has_slack(batch.shape, other.shape):
            yield other


def _best_effort_plan(view: View) -> BatchPlan:
    """All decodes and a chunk of prompts: as short as gets prompts through while decodes need their iterations anyway.

    An iteration costs a time of its own and a time for each token: chunks cost nothing more as long as decodes ride in
    each. A long one puts off nobody's stop.
    """
    limits, chunk, most = view.limits, view.limits.be_chunk_tokens, _longest_chunk_tokens(view)
    if most is not None:
        decodes, prompts = view.ahead(BE_DECODE), view.ahead(BE_PREFILL)
        num_iterations = _PROMPT_SHARE * decodes.num_tokens / max(1, decodes.num_sequences)
        spread = int(prompts.num_tokens / max(1.0, num_iterations))
        chunk = max(chunk, min(spread, most))
    return BatchPlan((BE_DECODE, BE_PREFILL), limits.max_num_seqs, chunk)


def _longest_chunk_tokens(view: View) -> int | None:
    """Returns what bounds a long chunk; None where there is none, since an arrival would wait for its end."""
    return None if view.preempt_at is PreemptAt.ITERATION else view.limits.be_max_chunk_tokens
