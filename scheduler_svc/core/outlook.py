"""What is foreseen at one decision: the next latency-sensitive iteration, and what best-effort work can do beside it.

    sent to the worker      │ slack: best-effort work alone │ the next iteration, with whom rides │ due
    ──────────────▶ starts  │──────────────────────────────▶│────────────────────────────────────▶│

Made anew for each decision, of what is there now and what is predicted. Decides nothing.
"""

import math
from collections import abc
from functools import cached_property
from typing import NamedTuple

from scheduler_svc.core import promise
from scheduler_svc.core.chunk import most_that_fit
from scheduler_svc.core.cost_model import CostModel
from scheduler_svc.core.planner import StepPlanner
from scheduler_svc.core.promise import Awaited
from scheduler_svc.core.state.batch import Batch, Member, Shape
from scheduler_svc.core.state.queues import BE_DECODE, LS_DECODE, LS_PREFILL, QueueName, Queues
from scheduler_svc.core.state.sequence import Phase, RequestClass

LS = RequestClass.LATENCY_SENSITIVE


class Moment(NamedTuple):
    """The time of a decision: now, when the worker has done all that was sent, and all of that which can't be stopped.

    The last two are predicted.
    """

    now_s: float = 0.0
    done_s: float = 0.0
    firm_s: float = 0.0


class _Iteration(NamedTuple):
    """A latency-sensitive iteration by itself: the tokens that are waited for, its shape, and when it goes on."""

    awaited: list[Awaited]
    shape: Shape
    starts_s: float


class Outlook:
    """What is foreseen at a moment; before costs are known, nobody rides or joins.

    Args:
        queues: Who waits.
        batches: Who is under way.
        cost_model: Predicts units.
        planner: Knows the layers.
        chunk_tokens: Tokens of a best-effort prompt that an iteration of its own would compute.
        moment: The time of the decision.
    """

    def __init__(
        self,
        queues: Queues,
        batches: abc.Iterable[Batch],
        cost_model: CostModel,
        planner: StepPlanner,
        chunk_tokens: int,
        moment: Moment,
    ) -> None:
        self.moment = moment
        self._queues = queues
        self._led = [batch for batch in batches if batch.request_class is LS]
        self._cost_model = cost_model
        self._planner = planner
        self._chunk_tokens = chunk_tokens

    def iteration_s(self, shape: Shape) -> float:
        """Predicts a whole iteration in seconds."""
        return self._cost_model.iteration_s(shape, self._planner.experts_by_layer)

    def room_s(self, members: abc.Iterable[Member], starts_s: float) -> float:
        """Returns how long an iteration that starts then may take for its latency-sensitive members to be in time."""
        return self._room_s(self._made_of(members, starts_s))

    @property
    def slack_s(self) -> float:
        """For how long best-effort work may run before latency-sensitive work has to go on, to be in time.

        Infinite where there is none; negative where it is late. Counted from now, or from the end of what latency-
        sensitive work was sent to the worker.
        """
        if self._next is None:
            return math.inf
        return self._room_s(self._next) - self.iteration_s(self._next.shape + self._riding)

    def rides(self, queue: QueueName) -> bool:
        """Whether best-effort work of this queue gains by riding in the next latency-sensitive iteration."""
        if self._next is None or not self._cost_model.is_ready:
            return False
        if queue.phase is Phase.DECODE:
            return self._riding.num_tokens > 0
        prompt = self._queues[queue].peek()
        if prompt is None:
            return False
        # A short chunk costs more by the token than a long one, unless it goes along where experts are read anyway.
        start, by_itself = prompt.num_computed_tokens, min(self._queues[queue].num_tokens_ahead, self._chunk_tokens)

        def chunk(num_tokens: int, num_passes: int) -> Shape:
            return Shape(num_tokens, num_tokens * (start + num_tokens), 0, num_passes)

        beside = self._next.shape + self._riding
        num_tokens = self.num_beside(beside, self._sustained_s, start, by_itself)
        extra_s = self.iteration_s(beside + chunk(num_tokens, 0)) - self.iteration_s(beside)
        return num_tokens > 0 and extra_s / num_tokens <= self.iteration_s(chunk(by_itself, 1)) / by_itself

    def num_beside(self, shape: Shape, room_s: float, start: int, most: int) -> int:
        """Counts the tokens of a sequence from a position on, up to `most`, that an iteration may take along.

        Args:
            shape: The iteration's without them.
            room_s: How long it may take.
            start: Their position in the sequence.
            most: So many would be computed up to the sequence's next token.
        """

        def whole(num_tokens: int) -> Shape:
            return shape + Shape(num_tokens, num_tokens * (start + num_tokens), int(num_tokens == most), 0)

        return most_that_fit(most, lambda n: self.iteration_s(whole(n)) <= room_s)

    def may_join(self, batch: Batch, companion: Batch) -> bool:
        """Whether a latency-sensitive batch is in time though the rest of another goes along from where that stands."""
        led, meeting = self._made_of(batch.members, self.moment.done_s), companion.issued
        if not self._cost_model.is_ready or meeting < batch.issued or not companion.is_resident:
            return False
        costs = self._cost_model.unit_costs
        _, before_s = self._planner.until(costs(batch.shape), batch.issued, meeting)
        _, jointly_s = self._planner.rest(costs(batch.shape + companion.shape), meeting)
        return before_s + jointly_s <= self._room_s(led)

    def next_unit_s(self, batch: Batch) -> float:
        """Predicts the seconds of the next unit of a batch."""
        return self._planner.one_unit(self._cost_model.unit_costs(batch.shape), batch.issued)[1]

    # ---- the next latency-sensitive iteration

    @cached_property
    def _next(self) -> _Iteration | None:
        """The iteration after those that were sent; None if there is nobody for it."""
        under_way = [batch for batch in self._led if batch.is_issued]
        members = [m for batch in under_way for m in batch.members if m.sequence.effective_class is LS]
        going_on = [m.sequence for m in members if m.samples and not m.sequence.ends_next]
        waiting = list(self._queues[LS_DECODE])
        starts_s = self.moment.done_s if under_way else self.moment.now_s
        awaited = [Awaited.next_of(sequence) for sequence in waiting]
        awaited += [Awaited.after_next_of(sequence, starts_s) for sequence in going_on]
        shape = Shape.of_decodes([*waiting, *going_on])
        # Nobody's prompt but the first one's counts: the others are due later, and may be many.
        first = self._queues[LS_PREFILL].peek()
        for sequence in [m.sequence for m in members if not m.samples] + ([] if first is None else [first]):
            num_tokens = sequence.num_pending_tokens
            shape += Shape(num_tokens, num_tokens * sequence.num_tokens, 1, 0)
            awaited.append(Awaited.next_of(sequence))
        return _Iteration(awaited, shape, starts_s) if awaited else None

    @cached_property
    def _riding(self) -> Shape:
        """The best-effort decodes that can ride in every iteration."""
        riding = [m.sequence for b in self._led for m in b.members if m.sequence.rides and m.samples]
        decodes = Shape.of_decodes([*self._queues[BE_DECODE], *riding], num_passes=0)
        low, high = 0, decodes.num_tokens if self._next and self._cost_model.is_ready else 0

        def some(count: int) -> Shape:
            return Shape(count, count * decodes.num_pairs // decodes.num_tokens if count else 0, count, 0)

        while low < high:
            middle = (low + high + 1) // 2
            assert self._next is not None
            fits = self.iteration_s(self._next.shape + some(middle)) <= self._sustained_s
            low, high = (middle, high) if fits else (low, middle - 1)
        return some(low)

    @cached_property
    def _sustained_s(self) -> float:
        """How long every latency-sensitive iteration may take."""
        assert self._next is not None
        return promise.sustained_s(self._next.awaited, self.iteration_s(self._next.shape))

    def _made_of(self, members: abc.Iterable[Member], starts_s: float) -> _Iteration:
        """Returns the part of an iteration that is latency-sensitive."""
        own = [member for member in members if member.sequence.effective_class is LS]
        awaited = [promise.awaited_by(member, starts_s, self._rest_of_prompt_s(member)) for member in own]
        return _Iteration(awaited, Shape.of(own), starts_s)

    def _rest_of_prompt_s(self, member: Member) -> float:
        left = member.sequence.num_tokens - member.first_position - member.num_tokens
        return self.iteration_s(Shape(left, left * member.sequence.num_tokens, 1)) if left > 0 else 0.0

    def _room_s(self, led: _Iteration) -> float:
        if not self._cost_model.is_ready:
            return -math.inf
        return promise.room_s(led.awaited, self.iteration_s(led.shape), led.starts_s)
