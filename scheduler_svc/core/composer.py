"""Fills batches from the queues as a plan says, as far as there is room. Decides nothing about what runs next."""

import math
from collections.abc import Set
from heapq import nlargest

from scheduler_svc.core.cache.memory import Memory
from scheduler_svc.core.policies import BatchPlan
from scheduler_svc.core.prediction.outlook import Outlook
from scheduler_svc.core.room import Room, Seeker
from scheduler_svc.core.state.batch import Batch, Member, Shape
from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.queues import QueueName, Queues, SequenceQueue
from scheduler_svc.core.state.sequence import Phase, RequestClass, Sequence
from scheduler_svc.core.suspects import Suspects

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT

# Who waits for others' tokens, or may not ride, is passed over for those behind; each is looked at in every decision.
_MOST_PASSED_OVER = 16


class Composer:
    """Turns a plan into members of a batch.

    Args:
        queues: The four queues.
        memory: Gives blocks to who goes on.
        room: Finds room for all others.
        suspects: Who runs alone.
    """

    def __init__(self, queues: Queues, memory: Memory, room: Room, suspects: Suspects) -> None:
        self._queues = queues
        self._memory = memory
        self._room = room
        self._suspects = suspects

    def compose(self, plan: BatchPlan, outlook: Outlook) -> list[Member]:
        """Takes sequences out of their queues, with the blocks that they need; an empty list if none can run now."""
        return self._suspect(plan) or self._fill_up([], plan, outlook, outlook.moment.firm_s)

    def compose_sequel(self, batch: Batch, plan: BatchPlan, outlook: Outlook) -> list[Member]:
        """Makes members of the next iteration of a batch whose tokens are still being sampled, filled up as planned.

        Returns an empty list unless one of the batch's class goes on and the blocks for all of it who do are free, and
        where a suspect waits, whom no sequel may put off. Who rides goes on as far as the iteration is in time.
        """
        if not batch.is_resident or batch.is_suspect or any(self._suspects.waiting_in(plan.sources)):
            return []
        if any(member.samples and member.sequence.kin.is_awaited(member.sequence) for member in batch.members):
            return []  # all or nobody: whoever it is awaited from can't go on before it is known
        following = self._following(batch, plan)
        own = [each for each in following if each[0].sequence.effective_class is batch.request_class]
        missing = sum(self._memory.num_missing(m.sequence, m.num_tokens + n) for m, n in own)
        # All or nobody: whoever is left out would wait for the sequel's end, and that has a sequel too.
        if not own or missing > self._memory.pool.num_free:
            return []
        members = [self._follow(member, num_tokens) for member, num_tokens in own]
        starts_s = outlook.moment.done_s
        room_s, shape = outlook.room_s(members, starts_s), Shape.of(members)
        for rider, most in following:
            if rider.sequence.effective_class is not batch.request_class:
                sequence, start = rider.sequence, rider.first_position + rider.num_tokens
                num_tokens = outlook.num_beside(shape, room_s, start, most)
                if num_tokens and self._memory.fits(sequence, rider.num_tokens + num_tokens):
                    members.append(member := self._follow(rider, num_tokens))
                    shape += member.shape
        return self._fill_up(members, plan, outlook, starts_s)

    def _following(self, batch: Batch, plan: BatchPlan) -> list[tuple[Member, int]]:
        """Returns who goes on after an iteration, with how many tokens: who samples and does not end, then prompts."""
        following = [(m, 1) for m in batch.members if m.samples and not m.sequence.ends_next]
        left = _budget(plan) - len(following)
        for m in batch.members:
            num_tokens = int(min(left, m.sequence.num_pending_tokens - m.num_tokens))
            if not m.samples and num_tokens > 0:
                following.append((m, num_tokens))
                left -= num_tokens
        return following

    def _follow(self, member: Member, num_tokens: int) -> Member:
        """Makes a member of the next iteration of a member of this one."""
        sequence, num_before = member.sequence, member.num_tokens  # these are not counted as computed yet
        samples = member.samples or sequence.samples(sequence.num_pending_tokens, num_before + num_tokens)
        start = member.first_position + num_before
        new_block_ids = self._memory.grow(sequence, num_before + num_tokens)
        if not member.samples:
            self._memory.computes(sequence, start, num_tokens)
        return Member(sequence, num_tokens, start, samples, new_block_ids, sequence.num_scored(start, num_tokens))

    def _fill_up(self, members: list[Member], plan: BatchPlan, outlook: Outlook, starts_s: float) -> list[Member]:
        """Adds members from the plan's sources, and whom it takes along; returns all of them."""
        if plan.needs is not None and not self._finds_room(self._queues[plan.needs], plan, outlook):
            return []
        is_short = False
        for source in plan.sources:
            if is_short and source.phase is Phase.PREFILL:
                continue  # what runs already and was left out comes back before anything new
            is_short = not self._fill(members, source, plan, outlook) or is_short
        self._take_along(members, plan, outlook, starts_s)
        return members

    def _suspect(self, plan: BatchPlan) -> list[Member]:
        """Makes a member of the first suspect of the plan's sources that has room; it goes ahead, and alone."""
        for sequence in self._suspects.waiting_in(plan.sources):
            queue = self._queues.of(sequence)
            self._room.aside.add(sequence.seq_id)
            queue.remove(sequence)
            seeker = self._room.seek(sequence, _budget(plan))
            num_tokens = seeker.chunk(_budget(plan))
            has_room = self._room.has_room(seeker, num_tokens)
            self._room.aside.clear()
            if has_room:
                return [self._admit(seeker, num_tokens)]
            queue.push(sequence)
        return []

    def _admit(self, seeker: Seeker, num_tokens: int) -> Member:
        """Makes a member of a sequence that has room."""
        new_block_ids = self._room.settle(seeker, num_tokens)
        sequence, start = seeker.sequence, seeker.start
        samples = sequence.samples(seeker.num_pending, num_tokens)
        return Member(sequence, num_tokens, start, samples, new_block_ids, sequence.num_scored(start, num_tokens))

    def _finds_room(self, queue: SequenceQueue, plan: BatchPlan, outlook: Outlook) -> bool:
        """Whether the first one of a queue can run now, with others' room if need be."""
        first = queue.peek()
        if first is None:
            return False
        seeker = self._room.seek(first, _budget(plan))
        return not _gains_by_waiting(seeker, outlook) and self._room.has_room(seeker, seeker.chunk(_budget(plan)))

    def _fill(self, members: list[Member], source: QueueName, plan: BatchPlan, outlook: Outlook) -> bool:
        """Adds members from one queue; returns False if one of them found no room, or no place."""
        queue = self._queues[source]
        if not queue:
            return True
        left, num_before = _budget(plan) - sum(m.num_tokens for m in members), len(members)
        num_places = int(max(0, min(left, plan.max_sequences - len(members))))
        resting = _resting(queue, num_places) if source.phase is Phase.DECODE else frozenset()
        has_all = self._fill_in_order(members, source, plan, outlook, resting)
        if resting and len(members) == num_before:
            # Nobody whose turn it is has room. The first of all has: everybody behind it gives way.
            self._fill_in_order(members, source, plan, outlook, frozenset())
        return has_all and not resting

    def _fill_in_order(
        self, members: list[Member], source: QueueName, plan: BatchPlan, outlook: Outlook, resting: Set[SeqId]
    ) -> bool:
        """Adds members from one queue but those that rest; returns False if one of them found no room."""
        queue, left = self._queues[source], _budget(plan) - sum(m.num_tokens for m in members)
        skipped, waiting, is_full = list[Sequence](), list[Sequence](), False
        while left > 0 and len(members) < plan.max_sequences and (sequence := queue.pop()):
            self._room.aside.add(sequence.seq_id)
            # Who comes back first is who runs first.
            if sequence.seq_id in resting or (is_full and sequence.is_offloaded):
                skipped.append(sequence)
                continue
            seeker = self._room.seek(sequence, left)
            num_tokens = seeker.chunk(left)
            if _gains_by_waiting(seeker, outlook):
                waiting.append(sequence)
                if len(waiting) >= _MOST_PASSED_OVER:
                    break
            elif not sequence.is_suspect and self._room.has_room(seeker, num_tokens):
                members.append(self._admit(seeker, num_tokens))
                left -= num_tokens
            else:  # a suspect would have been taken alone, had there been room for it
                skipped.append(sequence)
                is_full = True
                if source.phase is Phase.PREFILL:
                    break
        self._room.aside.clear()
        for sequence in (*skipped, *waiting):
            queue.push(sequence)
        return not skipped

    def _take_along(self, members: list[Member], plan: BatchPlan, outlook: Outlook, starts_s: float) -> None:
        """Adds members from the filler queues while the iteration is in time; moves nobody's cache for it."""
        if not members or not plan.filler:
            return
        room_s = outlook.room_s(members, starts_s)
        shape, budget = Shape.of(members), _budget(plan)
        for queue in (self._queues[name] for name in plan.filler):
            skipped: list[Sequence] = []
            while len(members) < plan.max_sequences and (sequence := queue.pop()):
                if not sequence.may_ride:
                    skipped.append(sequence)
                    if len(skipped) >= _MOST_PASSED_OVER:
                        break
                    continue
                seeker = self._room.seek(sequence, budget - shape.num_tokens)
                most = seeker.chunk(budget - shape.num_tokens)
                num_tokens = outlook.num_beside(shape, room_s, seeker.start, most)
                if num_tokens and self._room.is_free_to_run(seeker, num_tokens):
                    members.append(member := self._admit(seeker, num_tokens))
                    shape += member.shape
                    continue
                skipped.append(sequence)
                if not (num_tokens and sequence.is_offloaded):
                    break
            for sequence in skipped:
                queue.push(sequence)


def _gains_by_waiting(seeker: Seeker, outlook: Outlook) -> bool:
    """Whether it has its prompt's tokens sooner from an iteration under way that computes the same ones.

    It then takes part in an iteration more. Nobody who is waited for waits for best-effort work that stands.
    """
    claim = seeker.claim
    if claim is None or claim.coming_from is None:
        return False
    if seeker.sequence.effective_class is LS and claim.coming_from.effective_class is BE:
        return False
    num_coming, context = claim.num_coming_tokens, seeker.start + claim.num_coming_tokens
    computing_s = outlook.iteration_s(Shape.of_chunk(num_coming, context, num_rows=0, num_passes=0))
    return computing_s > outlook.iteration_s(Shape.of_chunk(1, context))


def _resting(queue: SequenceQueue, num_places: int) -> Set[SeqId]:
    """Returns the decodes without a place: those whose last token came last, so that all take turns."""
    if len(queue) <= num_places:
        return frozenset()
    resting = nlargest(len(queue) - num_places, queue, key=lambda s: (s.last_token_s or 0.0, s.arrival_s, s.seq_id))
    return {sequence.seq_id for sequence in resting}


def _budget(plan: BatchPlan) -> float:
    """Most tokens of an iteration."""
    return math.inf if plan.max_tokens is None else plan.max_tokens
