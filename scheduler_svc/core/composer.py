"""Fills batches from the queues as a plan says, as far as memory allows.

Finds room where blocks run short: latency-sensitive work may take any best-effort sequence's blocks, even those of one
inside a suspended batch, unless it rides where others wait for it; otherwise only who comes later in the same class
gives way. Who would run last goes first. Decides nothing about what runs next.
"""

import math
from collections.abc import Callable
from heapq import nlargest
from typing import NamedTuple

from scheduler_svc.core.cache.memory import Claim, Memory
from scheduler_svc.core.cache.victims import Move, Need, choose
from scheduler_svc.core.outlook import Outlook
from scheduler_svc.core.policies import BatchPlan
from scheduler_svc.core.sessions import Programs
from scheduler_svc.core.state.batch import Batch, Member, Shape
from scheduler_svc.core.state.commands import Command, DropBatch
from scheduler_svc.core.state.queues import QueueKey, QueueName, SequenceQueue
from scheduler_svc.core.state.sequence import Phase, RequestClass, Sequence, SequenceState
from scheduler_svc.core.workload import Workload

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT


class _Seeker(NamedTuple):
    """A sequence that is to run: from which position on, how many tokens it has to run, and what it needs for that.

    `claim` is None for one whose cache is on the device.
    """

    sequence: Sequence
    start: int
    num_pending: int
    claim: Claim | None


class Composer:
    """Turns a plan into members of a batch.

    Args:
        work: The queues and the batches under way.
        memory: Device blocks and those of other tiers.
        sessions: Whose caches are kept for a next turn.
        key: The order in which sequences of a class are served.
        emit: Takes commands to the worker, in order.
    """

    def __init__(
        self, work: Workload, memory: Memory, sessions: Programs, key: QueueKey, emit: Callable[[Command], None]
    ) -> None:
        self._work = work
        self._queues = work.queues
        self._memory = memory
        self._sessions = sessions
        self._key = key
        self._emit = emit
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
        """Restores the offloaded sequences of a suspended batch, all or none; whether it has all of them now.

        Those that wait in the same class give way to it: they can't run before it goes on.
        """
        if not self._memory.num_offloaded:
            return True
        away = [member.sequence for member in batch.members if member.sequence.is_offloaded]
        claims = [self._memory.claim(sequence, 0) for sequence in away]
        need = self._need(sum(claim.num_blocks for claim in claims), len(away), *claims)
        if not need.is_met:
            waiting = [s for s in self._residents.values() if s.state is SequenceState.QUEUED and s.block_ids]
            peers = [sequence for sequence in waiting if sequence.effective_class is batch.request_class]
            kept = [each.sequence for each in self._sessions.victims() if each.sequence.block_ids]
            candidates = [*kept, *sorted(peers, key=self._key, reverse=True)]
            moves = choose(candidates, need, self._memory, self._is_worth_moving)
            if moves is None:
                return False
            self._carry_out(moves)
        for sequence in away:
            self._memory.restore(sequence)
        return True

    def forget(self, sequence: Sequence) -> None:
        """Gives up a sequence's memory."""
        self._memory.forget(sequence)
        self._residents.pop(sequence.seq_id, None)

    def keep(self, sequence: Sequence) -> bool:
        """Keeps the cache of a sequence that ended for its program's next turn; False if there is nothing to keep."""
        self._residents.pop(sequence.seq_id, None)
        return self._memory.keep(sequence)

    def release_expired(self, now_s: float) -> None:
        """Gives up what was kept for turns that did not come in time; until it is evicted it may still be found."""
        for kept in self._sessions.expired(now_s):
            self._release(kept.sequence)

    def _release(self, kept: Sequence) -> None:
        self._sessions.release(kept)
        self._memory.forget(kept)

    def start_over(self, sequence: Sequence) -> None:
        """Gives up a live sequence's cache, wherever it is, and queues it to be computed again."""
        emptied = self._work.take_out(sequence)
        sequence.num_lost_tokens = sequence.num_computed_tokens
        self.forget(sequence)
        for batch in emptied:
            self._emit(DropBatch(batch.batch_id))
        sequence.state = SequenceState.QUEUED
        self._queues.of(sequence).push(sequence)  # it may stand in another queue now
        self._memory.counters.num_drops += 1

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
        if not member.samples:
            self._memory.computes(sequence, member.first_position + num_before, num_tokens)
        return Member(sequence, num_tokens, member.first_position + num_before, samples, new_block_ids)

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

    def _finds_room(self, queue: SequenceQueue, plan: BatchPlan, outlook: Outlook) -> bool:
        """Whether the first one of a queue can run now, with others' room if need be."""
        first = queue.peek()
        if first is None:
            return False
        seeker = self._seek(first, _budget(plan))
        return not _gains_by_waiting(seeker, outlook) and self._has_room(seeker, _chunk(seeker, _budget(plan)))

    def _fill(self, members: list[Member], source: QueueName, plan: BatchPlan, outlook: Outlook) -> bool:
        """Adds members from one queue; returns False if one of them found no room, or no place."""
        queue = self._queues[source]
        if not queue:
            return True
        left = _budget(plan) - sum(m.num_tokens for m in members)
        num_places = int(max(0, min(left, plan.max_sequences - len(members))))
        skipped = _take_out_resting(queue, num_places) if source.phase is Phase.DECODE else []
        waiting: list[Sequence] = []
        while left > 0 and len(members) < plan.max_sequences and (sequence := queue.pop()):
            seeker = self._seek(sequence, left)
            num_tokens = _chunk(seeker, left)
            if _gains_by_waiting(seeker, outlook):
                waiting.append(sequence)
            elif self._has_room(seeker, num_tokens):
                members.append(self._admit(seeker, num_tokens))
                left -= num_tokens
            else:
                skipped.append(sequence)
                if source.phase is Phase.PREFILL:
                    break
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
                seeker = self._seek(sequence, budget - shape.num_tokens)
                most = _chunk(seeker, budget - shape.num_tokens)
                num_tokens = outlook.num_beside(shape, room_s, seeker.start, most)
                if num_tokens and self._is_free_to_run(seeker, num_tokens):
                    members.append(member := self._admit(seeker, num_tokens))
                    shape += member.shape
                    continue
                skipped.append(sequence)
                if not (num_tokens and sequence.is_offloaded):
                    break
            for sequence in skipped:
                queue.push(sequence)

    # ---- room

    def _seek(self, sequence: Sequence, most: float) -> _Seeker:
        """Looks at what a sequence needs to run at most so many tokens; a new one needs room for its whole prompt."""
        num_computed, num_pending = sequence.num_computed_tokens, sequence.num_pending_tokens
        if sequence.block_ids:
            return _Seeker(sequence, num_computed, num_pending, None)
        if not num_computed and sequence.session is not None:
            self._bring_back_kept(sequence)
        claim = self._memory.claim(sequence, int(min(most, num_pending)) if num_computed else num_pending)
        return _Seeker(sequence, num_computed + claim.num_found_tokens, num_pending - claim.num_found_tokens, claim)

    def _bring_back_kept(self, sequence: Sequence) -> None:
        """Brings back what was kept of a program's last turn and moved off the device, if there is room for it."""
        kept = self._sessions.kept_for(sequence)
        if kept is not None and kept.is_offloaded:
            claim = self._memory.claim(kept, 0)
            need = self._need(claim.num_blocks, 1, claim)
            if need.is_met or (sequence.effective_class is LS and self._make_room(need, sequence)):
                self._memory.restore(kept)

    def _is_free_to_run(self, seeker: _Seeker, num_tokens: int) -> bool:
        """Whether it can run without that any other cache is moved."""
        if seeker.claim is None:
            return self._memory.fits(seeker.sequence, num_tokens)
        return self._need(seeker.claim.num_blocks + len(self._residents), 1).is_met

    def _admit(self, seeker: _Seeker, num_tokens: int) -> Member:
        """Makes a member of a sequence whose blocks fit, restoring it first if it is offloaded."""
        sequence, samples = seeker.sequence, num_tokens == seeker.num_pending
        if sequence.is_offloaded:
            self._memory.restore(sequence)
        elif seeker.claim is not None:
            self._memory.begin(sequence, seeker.claim.found)
            self._take_over(sequence)
        sequence.state = SequenceState.IN_BATCH
        self._residents[sequence.seq_id] = sequence
        new_block_ids = self._memory.grow(sequence, num_tokens)
        self._memory.computes(sequence, seeker.start, num_tokens)
        return Member(sequence, num_tokens, seeker.start, samples, new_block_ids)

    def _take_over(self, sequence: Sequence) -> None:
        """Gives up what was kept for a turn that begins: what it can use of it, it holds now itself."""
        self._sessions.began(sequence, self._work.outlook.moment.now_s - sequence.arrival_s)
        kept = self._sessions.kept_for(sequence)
        if kept is not None:
            self._release(kept)

    def _has_room(self, seeker: _Seeker, num_tokens: int) -> bool:
        """Whether its blocks fit, after others gave way if need be.

        A new sequence must leave room for the next block of everybody whose blocks it can't take. At its beginning
        only a latency-sensitive one takes blocks, but for those that are kept for a next turn.
        """
        sequence, claim = seeker.sequence, seeker.claim
        if claim is None:
            missing = self._memory.num_missing(sequence, num_tokens)
            return not missing or self._make_room(self._need(missing), sequence)
        if sequence.num_computed_tokens:
            return self._make_room(self._need(claim.num_blocks, 1, claim), sequence)
        if sequence.effective_class is BE:
            return self._make_room(
                self._need(claim.num_blocks + len(self._residents), 1, claim), sequence, kept_only=True
            )
        num_peers = sum(other.effective_class is LS for other in self._residents.values())
        return self._make_room(self._need(claim.num_blocks + num_peers, 1, claim), sequence)

    def _need(self, num_blocks: int, num_states: int = 0, *claims: Claim) -> Need:
        """Returns what is lacking of so many blocks, and places for states."""
        wanted = {block for claim in claims for block in claim.found}
        return Need(num_blocks - self._memory.pool.num_free, num_states - self._memory.num_free_states, wanted)

    def _make_room(self, need: Need, seeker: Sequence, *, kept_only: bool = False) -> bool:
        """Has others give way until nothing is lacking: names all of them first, then moves them; all or nothing."""
        if need.is_met:
            return True
        own = self._sessions.kept_for(seeker)
        kept = [each.sequence for each in self._sessions.victims() if each.sequence.block_ids]
        candidates = [sequence for sequence in kept if sequence is not own]
        candidates += [] if kept_only else self._candidates(seeker)
        moves = choose(candidates, need, self._memory, self._is_worth_moving)
        if moves is None and seeker.effective_class is LS:
            moves = choose(candidates, need, self._memory, self._is_worth_moving, may_break_iterations=True)
        self._carry_out(moves or [])
        return moves is not None

    def _candidates(self, seeker: Sequence) -> list[Sequence]:
        """Returns who must give way to the seeker, first victim first: queued before suspended, last to run first."""
        place = self._key(seeker)

        def yields(other: Sequence) -> bool:
            if other is seeker or not other.block_ids:
                return False
            if seeker.effective_class is LS and other.effective_class is BE:
                return not (other.rides and other.state is SequenceState.IN_BATCH)  # others could not go on without it
            is_peer = other.effective_class is seeker.effective_class
            return is_peer and other.state is SequenceState.QUEUED and self._key(other) > place

        queued_first = sorted(filter(yields, self._residents.values()), key=self._key, reverse=True)
        return sorted(queued_first, key=lambda s: (s.effective_class is LS, s.state is SequenceState.IN_BATCH))

    def _is_worth_moving(self, victim: Sequence) -> bool:
        """Whether moving its cache out and back is predicted to take less than computing it again."""
        outlook = self._work.outlook
        return outlook.move_s(len(victim.block_ids)) <= outlook.recompute_s(victim.num_computed_tokens)

    def _carry_out(self, moves: list[Move]) -> None:
        for sequence, tier in moves:
            if tier is not None:
                self._memory.offload(sequence, tier)
            elif sequence.state is SequenceState.FINISHED:
                self._release(sequence)
            else:
                self.start_over(sequence)


def _gains_by_waiting(seeker: _Seeker, outlook: Outlook) -> bool:
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


def _chunk(seeker: _Seeker, most: float) -> int:
    """Returns how many of its tokens it runs, of so many at most."""
    return int(min(most, seeker.num_pending))


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
