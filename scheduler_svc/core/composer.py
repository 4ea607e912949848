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


class _Filling:
    """Members of an iteration that is put together, and what is left of what its plan allows.

    Attributes:
        num_tokens: So many more may be computed.
        num_places: So many more sequences may take part.
    """

    def __init__(self, plan: BatchPlan, members: list[Member]) -> None:
        self.plan = plan
        self.members: list[Member] = []
        self.num_tokens, self.num_places = _budget(plan), plan.max_sequences
        for member in members:
            self.add(member)

    def add(self, member: Member) -> None:
        """Adds a member."""
        self.members.append(member)
        self.num_tokens -= member.num_tokens
        self.num_places -= member.num_sequences


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
        return self._suspect(plan) or self._fill_up(_Filling(plan, []), outlook, outlook.moment.firm_s)

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
        num_spare = plan.max_sequences - len(following)
        members: list[Member] = []
        for member, num_tokens in own:
            members.append(follower := self._follow(member, num_tokens, num_spare))
            num_spare -= len(follower.also_sampled)
        starts_s = outlook.moment.done_s
        room_s, shape = outlook.room_s(members, starts_s), Shape.of(members)
        for rider, most in following:
            if rider.sequence.effective_class is not batch.request_class:
                sequence, start = rider.sequence, rider.first_position + rider.num_tokens
                num_tokens = outlook.num_beside(shape, room_s, start, most)
                if num_tokens and self._memory.fits(sequence, rider.num_tokens + num_tokens):
                    members.append(follower := self._follow(rider, num_tokens, num_spare))
                    num_spare -= len(follower.also_sampled)
                    shape += follower.shape
        return self._fill_up(_Filling(plan, members), outlook, starts_s)

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

    def _follow(self, member: Member, num_tokens: int, num_spare: int) -> Member:
        """Makes a member of the next iteration of a member of this one, with places for so many others."""
        sequence, num_before = member.sequence, member.num_tokens  # these are not counted as computed yet
        samples = member.samples or sequence.samples(sequence.num_pending_tokens, num_before + num_tokens)
        start = member.first_position + num_before
        new_block_ids = self._memory.grow(sequence, num_before + num_tokens)
        if not member.samples:
            self._memory.computes(sequence, start, num_tokens)
        num_scored, others = sequence.num_scored(start, num_tokens), _others(sequence, num_spare) if samples else ()
        return Member(sequence, num_tokens, start, samples, new_block_ids, num_scored, others)

    def _fill_up(self, filling: _Filling, outlook: Outlook, starts_s: float) -> list[Member]:
        """Adds members from the plan's sources, and whom it takes along; returns all of them."""
        plan = filling.plan
        if plan.needs is not None and not self._finds_room(self._queues[plan.needs], plan, outlook):
            return []
        is_short = False
        for source in plan.sources:
            if is_short and source.phase is Phase.PREFILL:
                continue  # what runs already and was left out comes back before anything new
            is_short = not self._fill(filling, source, outlook) or is_short
        self._take_along(filling, outlook, starts_s)
        return filling.members

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
                return [self._admit(seeker, num_tokens, plan.max_sequences - 1)]
            queue.push(sequence)
        return []

    def _admit(self, seeker: Seeker, num_tokens: int, num_spare: int) -> Member:
        """Makes a member of a sequence that has room, with places for so many others."""
        new_block_ids = self._room.settle(seeker, num_tokens)
        sequence, start = seeker.sequence, seeker.start
        samples = sequence.samples(seeker.num_pending, num_tokens)
        num_scored, others = sequence.num_scored(start, num_tokens), _others(sequence, num_spare) if samples else ()
        return Member(sequence, num_tokens, start, samples, new_block_ids, num_scored, others)

    def _finds_room(self, queue: SequenceQueue, plan: BatchPlan, outlook: Outlook) -> bool:
        """Whether the first one of a queue can run now, with others' room if need be."""
        first = queue.peek()
        if first is None:
            return False
        seeker = self._room.seek(first, _budget(plan))
        return not _gains_by_waiting(seeker, outlook) and self._room.has_room(seeker, seeker.chunk(_budget(plan)))

    def _fill(self, filling: _Filling, source: QueueName, outlook: Outlook) -> bool:
        """Adds members from one queue; returns False if one of them found no room, or no place."""
        queue = self._queues[source]
        if not queue:
            return True
        num_before, num_turns = len(filling.members), int(max(0, min(filling.num_tokens, filling.num_places)))
        resting = _resting(queue, num_turns) if source.phase is Phase.DECODE else frozenset()
        has_all = self._fill_in_order(filling, source, outlook, resting)
        if resting and len(filling.members) == num_before:
            # Nobody whose turn it is has room. The first of all has: everybody behind it gives way.
            self._fill_in_order(filling, source, outlook, frozenset())
        return has_all and not resting

    def _fill_in_order(self, filling: _Filling, source: QueueName, outlook: Outlook, resting: Set[SeqId]) -> bool:
        """Adds members from one queue but those that rest; returns False if one of them found no room."""
        queue, skipped, waiting, is_full = self._queues[source], list[Sequence](), list[Sequence](), False
        while filling.num_tokens > 0 and filling.num_places > 0 and (sequence := queue.pop()):
            self._room.aside.add(sequence.seq_id)
            # Who comes back first is who runs first.
            if sequence.seq_id in resting or (is_full and sequence.is_offloaded):
                skipped.append(sequence)
                continue
            seeker = self._room.seek(sequence, filling.num_tokens)
            num_tokens = seeker.chunk(filling.num_tokens)
            if _gains_by_waiting(seeker, outlook):
                waiting.append(sequence)
                if len(waiting) >= _MOST_PASSED_OVER:
                    break
            elif not sequence.is_suspect and self._room.has_room(seeker, num_tokens):
                filling.add(self._admit(seeker, num_tokens, filling.num_places - 1))
            else:  # a suspect would have been taken alone, had there been room for it
                skipped.append(sequence)
                is_full = True
                if source.phase is Phase.PREFILL:
                    break
        self._room.aside.clear()
        for sequence in (*skipped, *waiting):
            queue.push(sequence)
        return not skipped

    def _take_along(self, filling: _Filling, outlook: Outlook, starts_s: float) -> None:
        """Adds members from the filler queues while the iteration is in time; moves nobody's cache for it."""
        if not filling.members or not filling.plan.filler:
            return
        room_s, shape = outlook.room_s(filling.members, starts_s), Shape.of(filling.members)
        for queue in (self._queues[name] for name in filling.plan.filler):
            skipped: list[Sequence] = []
            while filling.num_places > 0 and (sequence := queue.pop()):
                if not sequence.may_ride:
                    skipped.append(sequence)
                    if len(skipped) >= _MOST_PASSED_OVER:
                        break
                    continue
                seeker, num_spare = self._room.seek(sequence, filling.num_tokens), filling.num_places - 1
                most, num_rows = seeker.chunk(filling.num_tokens), 1 + len(_others(sequence, num_spare))
                num_tokens = outlook.num_beside(shape, room_s, seeker.start, most, num_rows)
                if num_tokens and self._room.is_free_to_run(seeker, num_tokens):
                    filling.add(member := self._admit(seeker, num_tokens, num_spare))
                    shape += member.shape
                    continue
                skipped.append(sequence)
                if not (num_tokens and sequence.is_offloaded):
                    break
            for sequence in skipped:
                queue.push(sequence)


def _others(sequence: Sequence, num_places: int) -> tuple[Sequence, ...]:
    """Returns who has its token from a sequence's logits too, as far as there are places: for the rest one leads anew.

    So many sampled rows at most: each is as long as the vocabulary.
    """
    return sequence.kin.also_sampled(sequence)[: max(0, num_places)]


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
