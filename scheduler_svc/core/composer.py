"""Fills batches from the queues as a plan says, as far as memory allows.

Owns the choice of victims when blocks run short: latency-sensitive work may take any best-effort sequence's blocks,
youngest first, even one inside a suspended batch; otherwise only a younger queued sequence of the same class gives way.
A victim's cache goes to host memory; where that is full, a queued victim is computed again later. Decides nothing about
what runs next.
"""

import math
from heapq import nlargest

from scheduler_svc.core.cache.memory import Memory
from scheduler_svc.core.outlook import Outlook
from scheduler_svc.core.policies.base import BatchPlan
from scheduler_svc.core.state.batch import Batch, Member, Shape
from scheduler_svc.core.state.queues import QueueName, Queues, SequenceQueue
from scheduler_svc.core.state.sequence import Phase, RequestClass, Sequence, SequenceState

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT


class Composer:
    """Turns a plan into members of a batch.

    Args:
        queues: The four queues.
        memory: Device and host blocks.
    """

    def __init__(self, queues: Queues, memory: Memory) -> None:
        self._queues = queues
        self._memory = memory
        self._residents: dict[int, Sequence] = {}

    def compose(self, plan: BatchPlan, outlook: Outlook) -> list[Member]:
        """Takes sequences out of their queues, with the blocks that they need; an empty list if none can run now."""
        return self._fill_up([], plan, outlook, outlook.moment.firm_s)

    def compose_sequel(self, batch: Batch, plan: BatchPlan, outlook: Outlook) -> list[Member]:
        """Makes members of the next iteration of a batch whose tokens are still being sampled, filled up as planned.

        Returns an empty list unless one of the batch's class goes on and the blocks for all of it who do are free. Who
        rides goes on as far as the iteration is in time.
        """
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

    def make_resident(self, batch: Batch) -> bool:
        """Restores the offloaded sequences of a suspended batch, all or none; whether it has all of them now."""
        if not self._memory.num_offloaded:
            return True
        offloaded = [member.sequence for member in batch.members if member.sequence.is_offloaded]
        if sum(sequence.num_host_blocks for sequence in offloaded) > self._memory.pool.num_free:
            return False
        for sequence in offloaded:
            self._memory.restore(sequence)
        return True

    def forget(self, sequence: Sequence) -> None:
        """Gives up a sequence's memory."""
        self._memory.forget(sequence)
        self._residents.pop(sequence.seq_id, None)

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
        samples = member.samples or num_before + num_tokens == sequence.num_pending_tokens
        new_block_ids = self._memory.grow(sequence, num_before + num_tokens)
        return Member(sequence, num_tokens, member.first_position + num_before, samples, new_block_ids)

    def _fill_up(self, members: list[Member], plan: BatchPlan, outlook: Outlook, starts_s: float) -> list[Member]:
        """Adds members from the plan's sources, and whom it takes along; returns all of them."""
        if plan.needs is not None and not self._finds_room(self._queues[plan.needs], plan):
            return []
        is_short = False
        for source in plan.sources:
            if is_short and source.phase is Phase.PREFILL:
                continue  # what runs already and was left out comes back before anything new
            is_short = not self._fill(members, source, plan) or is_short
        self._take_along(members, plan, outlook, starts_s)
        return members

    def _finds_room(self, queue: SequenceQueue, plan: BatchPlan) -> bool:
        """Whether the first one of a queue has room, others' if need be."""
        first = queue.peek()
        return first is not None and self._has_room(first, int(min(_budget(plan), first.num_pending_tokens)))

    def _fill(self, members: list[Member], source: QueueName, plan: BatchPlan) -> bool:
        """Adds members from one queue; returns False if one of them found no room, or no place."""
        queue = self._queues[source]
        if not queue:
            return True
        left = _budget(plan) - sum(m.num_tokens for m in members)
        num_places = int(max(0, min(left, plan.max_sequences - len(members))))
        skipped = _take_out_resting(queue, num_places) if source.phase is Phase.DECODE else []
        while left > 0 and len(members) < plan.max_sequences and (sequence := queue.pop()):
            num_pending = sequence.num_pending_tokens
            num_tokens = num_pending if num_pending <= left else int(left)
            if self._has_room(sequence, num_tokens):
                members.append(self._admit(sequence, num_tokens))
                left -= num_tokens
                continue
            skipped.append(sequence)
            if source.phase is Phase.PREFILL:
                break
        for sequence in skipped:
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
                most = int(min(budget - shape.num_tokens, sequence.num_pending_tokens))
                num_tokens = outlook.num_beside(shape, room_s, sequence.num_computed_tokens, most)
                if num_tokens and self._is_free_to_run(sequence, num_tokens):
                    members.append(member := self._admit(sequence, num_tokens))
                    shape += member.shape
                    continue
                skipped.append(sequence)
                if not (num_tokens and sequence.is_offloaded):
                    break
            for sequence in skipped:
                queue.push(sequence)

    def _is_free_to_run(self, sequence: Sequence, num_tokens: int) -> bool:
        """Whether its next tokens, and its cache where that is on the host, need no other cache to be moved."""
        is_new, is_away = not sequence.num_computed_tokens, sequence.is_offloaded
        reserve = len(self._residents) if is_new or is_away else 0
        needed = self._missing(sequence, sequence.num_pending_tokens if is_new else num_tokens)
        return sequence.num_host_blocks + needed + reserve <= self._memory.pool.num_free

    def _admit(self, sequence: Sequence, num_tokens: int) -> Member:
        """Makes a member of a sequence whose blocks fit, restoring it first if it is offloaded."""
        if sequence.is_offloaded:
            self._memory.restore(sequence)
        sequence.state = SequenceState.IN_BATCH
        self._residents[sequence.seq_id] = sequence
        samples = num_tokens == sequence.num_pending_tokens
        new_block_ids = self._memory.grow(sequence, num_tokens)
        return Member(sequence, num_tokens, sequence.num_computed_tokens, samples, new_block_ids)

    def _has_room(self, sequence: Sequence, num_tokens: int) -> bool:
        """Whether its blocks fit, after evicting others if need be.

        A new sequence must fit with its whole prompt, and leave room for the next block of
        everybody whose blocks it can't take.
        """
        if not (sequence.num_host_blocks or self._memory.num_missing(sequence, num_tokens)):
            return True
        is_new = not sequence.num_computed_tokens
        planned = sequence.num_pending_tokens if is_new else num_tokens
        missing = sequence.num_host_blocks + self._missing(sequence, planned)
        if not is_new:
            return self._evict_until(missing, sequence)
        if sequence.effective_class is BE:
            return missing + len(self._residents) <= self._memory.pool.num_free
        num_peers = sum(other.effective_class is LS for other in self._residents.values())
        return self._evict_until(missing + num_peers, sequence)

    def _missing(self, sequence: Sequence, num_tokens: int) -> int:
        """Counts further blocks for its next tokens, beyond those that restoring brings back."""
        return max(0, self._memory.num_missing(sequence, num_tokens) - sequence.num_host_blocks)

    def _evict_until(self, num_blocks: int, seeker: Sequence) -> bool:
        """Frees blocks until `num_blocks` are free: names all victims first, then moves them; all or nothing."""
        shortfall = num_blocks - self._memory.pool.num_free
        if shortfall <= 0:
            return True
        victims: list[Sequence] = []
        host_left = self._memory.num_free_host_blocks
        for victim in self._candidates(seeker):
            held = len(victim.block_ids)
            if held > host_left and victim.state is SequenceState.IN_BATCH:
                continue
            host_left -= held if held <= host_left else 0
            victims.append(victim)
            shortfall -= held
            if shortfall <= 0:
                break
        if shortfall > 0:
            return False
        for victim in victims:
            self._evict(victim)
        return True

    def _candidates(self, seeker: Sequence) -> list[Sequence]:
        """Returns who must give way to the seeker, first victim first: queued before suspended, youngest first."""
        order = (seeker.arrival_s, seeker.seq_id)

        def yields(other: Sequence) -> bool:
            if other is seeker or not other.block_ids:
                return False
            if seeker.effective_class is LS and other.effective_class is BE:
                return not (other.rides and other.state is SequenceState.IN_BATCH)  # others could not go on without it
            is_younger = (other.arrival_s, other.seq_id) > order
            is_peer = other.effective_class is seeker.effective_class
            return is_peer and is_younger and other.state is SequenceState.QUEUED

        def rank(other: Sequence) -> tuple[bool, bool, float, int]:
            in_batch = other.state is SequenceState.IN_BATCH
            return (other.effective_class is LS, in_batch, -other.arrival_s, -other.seq_id)

        return sorted(filter(yields, self._residents.values()), key=rank)

    def _evict(self, victim: Sequence) -> None:
        if self._memory.can_offload(victim):
            self._memory.offload(victim)
            return
        self._queues.of(victim).remove(victim)  # computed again: it may stand in another queue now
        self.forget(victim)
        self._queues.of(victim).push(victim)


def _take_out_resting(queue: SequenceQueue, num_places: int) -> list[Sequence]:
    """Takes the decodes without a place out of their queue: those whose last token came last, so all take turns."""
    if len(queue) <= num_places:
        return []
    resting = nlargest(len(queue) - num_places, queue, key=lambda s: (s.last_token_s or 0.0, s.arrival_s, s.seq_id))
    for sequence in resting:
        queue.remove(sequence)
    return resting


def _budget(plan: BatchPlan) -> float:
    """Most tokens of an iteration."""
    return math.inf if plan.max_tokens is None else plan.max_tokens
