"""The default policy: latency-sensitive requests get what they were promised, best-effort work the rest of the time.

The reasons are in docs/design/scheduling.md; the mechanisms are the scheduler's. Source: arXiv 2503.09304, section 3,
gone beyond in chunked prefill, promised times and the guard against starvation.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from scheduler_svc.core.policies.base import BatchPlan, Choice, Pause, Policy, Sequel, View
from scheduler_svc.core.state.batch import Batch
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.core.state.queues import BE_DECODE, BE_PREFILL, LS_DECODE, LS_PREFILL, QueueName
from scheduler_svc.core.state.sequence import RequestClass, Sequence

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
_BE_QUEUES = (BE_DECODE, BE_PREFILL)
_LS_SEQUEL_MARGIN = 0.2
# By which a near deadline or an early program brings a request forward, and again a kept cache: nobody waits for ever.
_MOST_AHEAD_S = 10.0
_PROMPT_SHARE = 0.25  # of the iterations that decodes still need; who waits for a first token does not decode meanwhile


class Qllm(Policy):
    """Latency-sensitive first, with a bounded wait and a floor under best-effort work."""

    name = "qllm"
    be_sequel_margin = 0.05

    def queue_key(self, sequence: Sequence) -> tuple[float, ...]:
        """Orders by when the first token is due; some come forward, each by a bounded time.

        So do a near deadline, a turn of a program that came earlier, as if it had come then, and one whose program's
        cache is kept.
        """
        if sequence.request_class is BE:
            return super().queue_key(sequence)
        due_s = sequence.arrival_s + sequence.ttft_s
        came_s = sequence.arrival_s if sequence.order_s is None else sequence.order_s
        place_s = came_s + sequence.ttft_s + _MOST_AHEAD_S
        if sequence.deadline_s is not None:
            place_s = min(place_s, sequence.deadline_s - sequence.tpot_s * sequence.stop.max_tokens)
        place_s = max(due_s, place_s)
        return (place_s - _MOST_AHEAD_S if sequence.goes_ahead else place_s, sequence.arrival_s, sequence.seq_id)

    def preferences(self, view: View) -> Iterator[Choice]:
        """Best-effort work where it is owed, then latency-sensitive work and what it leaves time for."""
        if view.owes_best_effort():
            yield from self.best_effort(view, _best_effort_plan)
        if view.has_latency_sensitive:
            yield from self._latency_sensitive(view)
        if not view.awaits_result(LS):  # what was sent now would stand before the next step
            yield from self.best_effort(view, _best_effort_plan)

    def _latency_sensitive(self, view: View) -> Iterator[Choice]:
        """A prompt that cuts in, what it cut into, best-effort work while that is in time, or the next iteration."""
        under_way, slack_s = view.open_batch(LS), view.outlook.slack_s
        has_prompt = view.num_waiting(LS_PREFILL) > 0 and slack_s <= 0
        if has_prompt and view.may_cut_in():
            yield replace(_latency_sensitive_plan(view, ()), needs=LS_PREFILL)
        if under_way:
            # Where another prompt is to go ahead of it, it waits: it would run a unit first.
            if not (has_prompt and view.awaits_result(LS) and view.may_be_passed(under_way)):
                yield under_way
            return
        # What does not gain by riding goes on by itself until latency-sensitive work has to.
        has_units = view.preempt_at is not PreemptAt.ITERATION
        filler = _BE_QUEUES if view.outlook.rides or not has_units else ()
        if standing := view.open_batch(BE):
            if slack_s > 0:
                yield standing
        elif has_units and not filler and slack_s > 0 and not view.awaits_result(BE):
            yield _best_effort_plan(view)
        if view.awaits_result(LS):
            yield from _latency_sensitive_sequel(view, filler)
            return
        if view.awaits_result(BE) and slack_s > 0:
            yield Pause(slack_s)
        yield _latency_sensitive_plan(view, filler)

    def companions(self, view: View, batch: Batch) -> Iterator[Batch]:
        """A suspended best-effort batch at or ahead of the latency-sensitive one, where all of its rest is in time."""
        other = view.open_batch(BE)
        if other is None or batch.request_class is BE or not other.is_suspended:
            return
        if view.outlook.may_join(batch, other):
            yield other

    def window_s(self, view: View, batch: Batch) -> float | None:
        """As of every policy; but best-effort work is sent whole where it has slack, or rides: it can be cut short."""
        if view.preempt_at is PreemptAt.ITERATION:
            return super().window_s(view, batch)
        has_slack = batch.num_be_tokens > 0 and (batch.request_class is LS or view.outlook.slack_s > 0)
        return None if has_slack else super().window_s(view, batch)


def _latency_sensitive_plan(view: View, filler: tuple[QueueName, ...]) -> BatchPlan:
    """All decodes and a chunk of prompts, and of best-effort work that rides as much as is in time."""
    # Who streams goes on in every iteration; a prompt is begun where there is a place for its decode as well.
    max_tokens = view.limits.ls_chunk_tokens + view.num_waiting(LS_DECODE)
    return BatchPlan((LS_DECODE, LS_PREFILL), view.limits.max_num_seqs, max_tokens, filler)


def _latency_sensitive_sequel(view: View, filler: tuple[QueueName, ...]) -> Iterator[Sequel]:
    """The iteration after the one under way, where nobody waits to take part in it."""
    # Whoever waits takes part in the next iteration, which a sequel would put off by one more, and so on.
    # Nobody else from the queues: room might be made for them by taking blocks of who goes on.
    if not view.num_waiting(LS_PREFILL) and not view.num_waiting(LS_DECODE) and not view.awaits_result(BE):
        # One that carries best-effort work can't be cut into any more once its sequel has begun.
        margin = 0.0 if view.outlook.has_riders else _LS_SEQUEL_MARGIN
        yield Sequel(LS, partial(replace, _latency_sensitive_plan(view, filler), sources=()), margin)


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
    return BatchPlan(_BE_QUEUES, limits.max_num_seqs, chunk)


def _longest_chunk_tokens(view: View) -> int | None:
    """Returns what bounds a long chunk; None where there is none, since an arrival would wait for its end."""
    return None if view.preempt_at is PreemptAt.ITERATION else view.limits.be_max_chunk_tokens
