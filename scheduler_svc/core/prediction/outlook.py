"""What is foreseen at one decision: the next latency-sensitive iteration, and what best-effort work can do beside it.

    sent to the worker      │ slack: best-effort work alone │ the next iteration, with whom rides │ due
    ──────────────▶ starts  │──────────────────────────────▶│────────────────────────────────────▶│

Made anew for each decision, of what is there now and what is predicted. Decides nothing.
"""

import math
from collections import abc
from functools import cached_property
from typing import NamedTuple

from scheduler_svc.core.prediction import promise
from scheduler_svc.core.prediction.chunk import largest, most_that_fit
from scheduler_svc.core.prediction.cost_model import CostModel
from scheduler_svc.core.prediction.planner import StepPlanner
from scheduler_svc.core.prediction.promise import Awaited
from scheduler_svc.core.state.batch import Batch, Member, Shape
from scheduler_svc.core.state.queues import BE_DECODE, BE_PREFILL, LS_DECODE, LS_PREFILL, Queues
from scheduler_svc.core.state.sequence import RequestClass, Sequence

LS = RequestClass.LATENCY_SENSITIVE
_A_PASS = Shape(0, 0, 0)
_PARTS = 64


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
        may_ride: Whether best-effort work may ride: not where the first of it may not, which would wait for ever.
    """

    def __init__(
        self,
        queues: Queues,
        batches: abc.Iterable[Batch],
        cost_model: CostModel,
        planner: StepPlanner,
        chunk_tokens: int,
        moment: Moment,
        *,
        may_ride: bool = True,
    ) -> None:
        self.moment = moment
        self._queues = queues
        self._led, self._others = _parted(batches)
        self._cost_model = cost_model
        self._planner = planner
        self._chunk_tokens = chunk_tokens
        self._may_ride = may_ride

    def iteration_s(self, shape: Shape) -> float:
        """Predicts a whole iteration in seconds."""
        return self._cost_model.iteration_s(shape, self._planner.experts_by_layer)

    def move_s(self, num_blocks: int) -> float:
        """Predicts moving a cache off the device and back, in seconds."""
        return self._cost_model.move_s(num_blocks)

    def recompute_s(self, num_tokens: int) -> float:
        """Predicts computing the first tokens of a sequence again, beside what runs anyway, in seconds."""
        return self.iteration_s(Shape.of_chunk(num_tokens, num_tokens, num_rows=0, num_passes=0))

    def room_s(self, members: abc.Iterable[Member], starts_s: float) -> float:
        """Returns how long an iteration that starts then may take for its latency-sensitive members to be in time."""
        return self._room_s(self._made_of(members, starts_s))

    @cached_property
    def slack_s(self) -> float:
        """For how long best-effort work may begin units before latency-sensitive work has to go on, to be in time.

        Infinite where there is none; negative where it is late. Counted from now, or from the end of what latency-
        sensitive work was sent to the worker.
        """
        if self._next is None:
            return math.inf
        last_unit_s = max((self._longest_unit_s(batch) for batch in self._others), default=0.0)
        return self._room_s(self._next) - self.iteration_s(self._next.shape + self._riding) - last_unit_s

    @property
    def has_riders(self) -> bool:
        """Whether best-effort work rides in a latency-sensitive iteration under way."""
        return any(batch.num_be_tokens for batch in self._led)

    @cached_property
    def rides(self) -> bool:
        """Whether best-effort work gets on further by riding in latency-sensitive iterations than between them.

        What is compared is how much of one round of it is done in the time of one latency-sensitive iteration. A round
        is a token for each decode, and of prompts as much as keeps step with that.
        """
        if self._next is None or not self._may_ride or not self._cost_model.is_ready:
            return False
        led, best_effort = self._next.shape, self._round
        if not best_effort.num_tokens:
            return False
        room_s, by_itself_s = self._sustained_s, self.iteration_s(best_effort + _A_PASS)
        part = self._part_in_time(best_effort)
        left_s = room_s - self.iteration_s(led + _part_of(best_effort, part)) if part == 1.0 else 0.0
        return part > 0 and part + left_s / by_itself_s >= (room_s - self.iteration_s(led)) / by_itself_s

    @cached_property
    def _round(self) -> Shape:
        """A token of each best-effort decode, and of prompts what keeps step with that, in no pass of its own."""
        decodes, prompts = self._decodes, self._queues[BE_PREFILL]
        shape = Shape.of_decodes(decodes, num_passes=0)
        first = prompts.peek()
        if first is None:
            return shape
        num_rounds = sum(sequence.num_tokens_ahead for sequence in decodes) / len(decodes) if decodes else 1.0
        num_tokens = min(self._chunk_tokens, math.ceil(prompts.num_tokens_ahead / max(1.0, num_rounds)))
        return shape + Shape.of_chunk(num_tokens, first.num_computed_tokens + num_tokens, 0, 0)

    def num_beside(self, shape: Shape, room_s: float, start: int, most: int, num_rows: int = 1) -> int:
        """Counts the tokens of a sequence from a position on, up to `most`, that an iteration may take along.

        Args:
            shape: The iteration's without them.
            room_s: How long it may take.
            start: Their position in the sequence.
            most: So many would be computed up to the sequence's next token.
            num_rows: So many rows are then sampled.
        """

        def whole(num_tokens: int) -> Shape:
            return shape + Shape.of_chunk(num_tokens, start + num_tokens, num_rows * (num_tokens == most), 0)

        return most_that_fit(most, lambda n: self.iteration_s(whole(n)) <= room_s)

    def may_join(self, batch: Batch, companion: Batch) -> bool:
        """Whether a latency-sensitive batch is in time though the rest of another goes along from where that stands."""
        led, meeting = self._made_of(batch.members, self.moment.done_s), companion.issued
        if not self._cost_model.is_ready or meeting < batch.issued or not companion.is_resident:
            return False
        if batch.is_suspect or companion.is_suspect:
            return False
        costs = self._cost_model.unit_costs
        _, before_s = self._planner.until(costs(batch.shape), batch.issued, meeting)
        _, jointly_s = self._planner.rest(costs(batch.shape + companion.shape), meeting)
        return before_s + jointly_s <= self._room_s(led)

    # ---- the next latency-sensitive iteration

    @cached_property
    def _next(self) -> _Iteration | None:
        """The iteration after those that were sent; None if there is nobody for it."""
        under_way = [batch for batch in self._led if batch.is_issued and batch.sequel is None]
        members = [m for batch in under_way for m in batch.members if m.sequence.effective_class is LS]
        going_on = [m.sequence for m in members if m.samples and not m.sequence.ends_next]
        waiting = list(self._queues[LS_DECODE])
        starts_s = self.moment.done_s if under_way else self.moment.now_s
        awaited = [Awaited.next_of(sequence) for sequence in waiting]
        awaited += [Awaited.after_next_of(sequence, starts_s) for sequence in going_on]
        shape = Shape.of_decodes([*waiting, *going_on])
        chunks = [(m.sequence, m.sequence.num_pending_tokens - m.num_tokens) for m in members if not m.samples]
        chunks += [(sequence, sequence.num_pending_tokens) for sequence in self._prompts_that_count()]
        for sequence, num_tokens in chunks:
            shape += Shape.of_chunk(num_tokens, sequence.num_tokens, 1, 0)
            awaited.append(Awaited.next_of(sequence))
        return _Iteration(awaited, shape, starts_s) if awaited else None

    def _prompts_that_count(self) -> list[Sequence]:
        """The first prompt that waits, and the one that is due first; the others are due later, and may be many."""
        queue = self._queues[LS_PREFILL]
        first = queue.peek()
        if first is None or first.due_s <= self.moment.now_s:  # it is begun now, whoever else waits
            return [] if first is None else [first]
        hastiest = min(queue, key=lambda sequence: sequence.due_s)
        return [first] if hastiest is first else [first, hastiest]

    @cached_property
    def _decodes(self) -> list[Sequence]:
        """The best-effort sequences that decode, are in no batch of their own, and have their cache on the device."""
        led = [batch for batch in self._led if batch.sequel is None]
        riding = [m.sequence for b in led for m in b.members if m.sequence.rides and m.samples]
        return [*(one for one in self._queues[BE_DECODE] if not one.is_offloaded), *riding]

    @cached_property
    def _riding(self) -> Shape:
        """The best-effort decodes that can ride in every iteration, where they do."""
        decodes = Shape.of_decodes(self._decodes, num_passes=0)
        return _part_of(decodes, self._part_in_time(decodes) if self.rides else 0.0)

    def _part_in_time(self, best_effort: Shape) -> float:
        """Returns how much of a shape can ride in every latency-sensitive iteration."""
        assert self._next is not None
        led, room_s = self._next.shape, self._sustained_s
        return _largest_part(lambda part: self.iteration_s(led + _part_of(best_effort, part)) <= room_s)

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
        return self.iteration_s(Shape.of_chunk(left, member.sequence.num_tokens)) if left > 0 else 0.0

    def _longest_unit_s(self, batch: Batch) -> float:
        return self._planner.longest_unit_s(self._cost_model.unit_costs(batch.shape))

    def _room_s(self, led: _Iteration) -> float:
        if not self._cost_model.is_ready:
            return -math.inf
        return promise.room_s(led.awaited, self.iteration_s(led.shape), led.starts_s)


def _parted(batches: abc.Iterable[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Returns the latency-sensitive batches, and the others."""
    led: list[Batch] = []
    others: list[Batch] = []
    for batch in batches:
        (led if batch.request_class is LS else others).append(batch)
    return led, others


def _part_of(shape: Shape, part: float) -> Shape:
    """Returns about a part of a shape's tokens, in as many passes."""
    num_tokens, num_pairs, num_rows, num_passes = shape.num_tokens, shape.num_pairs, shape.num_rows, shape.num_passes
    return Shape(round(part * num_tokens), round(part * num_pairs), round(part * num_rows), num_passes)


def _largest_part(fits: abc.Callable[[float], bool]) -> float:
    """Returns the largest part, in 1/64, that fits; 0 if none does."""
    return largest(_PARTS, lambda number: fits(number / _PARTS)) / _PARTS
