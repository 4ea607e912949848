"""Finds room on the device for sequences that are to run: what each needs, who gives way, and what is given up.

Latency-sensitive work may take any best-effort sequence's blocks, even those of one inside a suspended batch, unless it
rides where others wait for it; otherwise only who comes later in the same class gives way. What is kept for next turns
of programs goes first, then who would run last. Decides nothing about what runs.

    seek ─▶ Seeker: what it needs ─▶ has_room ─▶ victims named, then moved ─▶ settle: its blocks are given to it
"""

from collections.abc import Callable
from typing import NamedTuple

from scheduler_svc.core.cache.memory import Claim, Memory
from scheduler_svc.core.cache.victims import Move, Need, choose
from scheduler_svc.core.sessions import Programs
from scheduler_svc.core.state.batch import Batch
from scheduler_svc.core.state.commands import Command, DropBatch
from scheduler_svc.core.state.ids import BlockId, SeqId
from scheduler_svc.core.state.queues import QueueKey
from scheduler_svc.core.state.sequence import RequestClass, Sequence, SequenceState
from scheduler_svc.core.workload import Workload

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
_WAITING = (SequenceState.QUEUED, SequenceState.HELD)


class Seeker(NamedTuple):
    """A sequence that is to run: from which position on, how many tokens it has to run, and what it needs for that.

    Attributes:
        claim: What it needs; None for one whose cache is on the device.
        kept: What is kept of its program off the device, and brought back for it.
    """

    sequence: Sequence
    start: int
    num_pending: int
    claim: Claim | None
    kept: Sequence | None = None

    def chunk(self, most: float) -> int:
        """Returns how many of its tokens it runs, of so many at most."""
        return int(min(most, self.num_pending))


class Room:
    """The device's memory, as those see it who are to run.

    Args:
        work: The queues and the batches under way.
        memory: Device blocks and those of other tiers.
        sessions: Whose caches are kept for a next turn.
        key: The order in which sequences of a class are served.
        emit: Takes commands to the worker, in order.

    Attributes:
        aside: Sequences that are out of their queues for the moment, so that nothing may happen to them.
    """

    def __init__(
        self, work: Workload, memory: Memory, sessions: Programs, key: QueueKey, emit: Callable[[Command], None]
    ) -> None:
        self.aside: set[SeqId] = set()
        self._work = work
        self._memory = memory
        self._sessions = sessions
        self._key = key
        self._emit = emit
        self._begun: dict[SeqId, Sequence] = {}

    # ---- sequences come to run

    def seek(self, sequence: Sequence, most: float) -> Seeker:
        """Looks at what a sequence needs to run at most so many tokens; a new one needs room for its whole prompt."""
        num_computed, num_pending = sequence.num_computed_tokens, sequence.num_pending_tokens
        if sequence.block_ids:
            return Seeker(sequence, num_computed, num_pending, None)
        if sequence.is_offloaded:
            claim = self._memory.claim(sequence, int(min(most, num_pending)))
            return Seeker(sequence, num_computed, num_pending, claim)
        kept = self._sessions.kept_for(sequence)
        with_kept = self._memory.claim_with(sequence, kept) if kept is not None and kept.is_offloaded else None
        claim = with_kept or self._memory.claim(sequence, num_pending)
        start = claim.num_found_tokens
        return Seeker(sequence, start, num_pending - start, claim, kept if with_kept else None)

    def is_free_to_run(self, seeker: Seeker, num_tokens: int) -> bool:
        """Whether it can run without that any other cache is moved."""
        if seeker.claim is None:
            return self._memory.fits(seeker.sequence, num_tokens)
        return self._need(seeker.claim.num_blocks + self._num_growing(), 1).is_met

    def has_room(self, seeker: Seeker, num_tokens: int) -> bool:
        """Whether its blocks fit, after others gave way if need be.

        A new sequence must leave room for the next block of everybody whose blocks it can't take.
        """
        sequence, claim = seeker.sequence, seeker.claim
        if claim is None:
            missing = self._memory.num_missing(sequence, num_tokens)
            return not missing or self._make_room(self._need(missing), sequence)
        is_away = sequence.is_offloaded
        others = 0 if is_away else self._num_growing(LS if sequence.effective_class is LS else None)
        return self._make_room(self._need(claim.num_blocks + others, 1, claim), sequence)

    def settle(self, seeker: Seeker, num_tokens: int) -> tuple[BlockId, ...]:
        """Gives a sequence that has room the blocks for its next tokens, restored if it is away; returns the new ones.

        It is then in an iteration.
        """
        sequence = seeker.sequence
        if sequence.is_offloaded:
            self._memory.restore(sequence)
        elif seeker.claim is not None:
            if seeker.kept is not None:
                self._memory.restore(seeker.kept)
            self._begin(sequence)
        sequence.state = SequenceState.IN_BATCH
        self._begun[sequence.seq_id] = sequence
        new_block_ids = self._memory.grow(sequence, num_tokens)
        self._memory.computes(sequence, seeker.start, num_tokens)
        return new_block_ids

    def make_resident(self, batch: Batch) -> bool:
        """Restores the offloaded sequences of a suspended batch, all or none; whether it has all of them now.

        Those that wait in the same class give way to it: they can't run before it goes on. Where nobody else is left
        who might, those who are away are computed again.
        """
        if not self._memory.num_offloaded:
            return True
        is_alone = batch.request_class is LS or not self._work.has_latency_sensitive
        while away := [member.sequence for member in batch.members if member.sequence.is_offloaded]:
            claims = [self._memory.claim(sequence, 0) for sequence in away]
            need = self._need(sum(claim.num_blocks for claim in claims), len(away), *claims)
            victims = [*self._kept(), *self._who_wait(batch.request_class)]
            if self._free(need, victims, may_release=is_alone or self._work.guard.is_promoted):
                for sequence in away:
                    self._memory.restore(sequence)
            elif is_alone:
                self.start_over(max(away, key=self._key))
            else:
                return False
        return bool(batch.members)

    def has_room_to_fork(self, parent: Sequence) -> bool:
        """Whether what a sequence has computed can be another one's too, after best-effort work gave way if need be."""
        if not parent.block_ids:
            return False
        need = self._need(self._memory.num_copied(parent), 1)
        if need.is_met or parent.effective_class is not LS:  # first: there are many forks at a time, and many victims
            return need.is_met
        return self._free(need, [*_of(self._kept(), BE), *self._best_effort_victims()])

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Has a sequence that was made known begin where another one stands, for which there is room."""
        self._memory.fork(parent, child)
        self._begun[child.seq_id] = child

    # ---- sequences leave

    def forget(self, sequence: Sequence) -> None:
        """Gives up a sequence's memory."""
        self._memory.forget(sequence)
        self._begun.pop(sequence.seq_id, None)

    def keep(self, sequence: Sequence) -> bool:
        """Keeps the cache of a sequence that ended for its program's next turn; False if there is nothing to keep."""
        self._begun.pop(sequence.seq_id, None)
        return self._memory.keep(sequence)

    def release_expired(self, now_s: float) -> None:
        """Gives up what was kept for turns that did not come in time; until it is evicted it may still be found."""
        for kept in self._sessions.expired(now_s):
            self._release(kept.sequence)

    def start_over(self, sequence: Sequence) -> None:
        """Gives up a live sequence's cache, wherever it is, and queues it to be computed again."""
        sequence.num_lost_tokens = sequence.num_computed_tokens + self._work.num_under_way(sequence)
        emptied = self._work.take_out(sequence)
        self.forget(sequence)
        for batch in emptied:
            self._emit(DropBatch(batch.batch_id))
        if sequence.state is not SequenceState.HELD:
            sequence.state = SequenceState.QUEUED
            self._work.queues.of(sequence).push(sequence)  # it may stand in another queue now
        self._memory.counters.num_drops += 1

    # ---- inside

    def _release(self, kept: Sequence) -> None:
        self._sessions.release(kept)
        self._memory.forget(kept)

    def _begin(self, sequence: Sequence) -> None:
        """Lets a sequence begin with what is found. What was kept for it is given up, for it holds that itself now."""
        if not sequence.num_starts:
            self._sessions.began(sequence, self._work.outlook.moment.now_s - sequence.arrival_s)
        self._memory.begin(sequence, self._memory.claim(sequence, sequence.num_tokens).found)
        kept = self._sessions.kept_for(sequence)
        if kept is not None:
            self._release(kept)

    def _num_growing(self, request_class: RequestClass | None = None) -> int:
        """Counts the sequences on the device, of one class or of all, each of which may need a block next.

        Who is held is not among them: it runs only after others, for whom it gives way.
        """
        on_device = (s for s in self._begun.values() if s.block_ids and s.state is not SequenceState.HELD)
        return sum(request_class in (None, other.effective_class) for other in on_device)

    def _need(self, num_blocks: int, num_states: int = 0, *claims: Claim) -> Need:
        """Returns what is lacking of so many blocks, and places for states."""
        wanted = {block for claim in claims for block in claim.found}
        return Need(num_blocks - self._memory.pool.num_free, num_states - self._memory.num_free_states, wanted)

    def _make_room(self, need: Need, seeker: Sequence) -> bool:
        """Has others give way until nothing is lacking, all or nothing."""
        if need.is_met:
            return True
        own = self._sessions.kept_for(seeker)
        kept = [sequence for sequence in self._kept() if sequence is not own]
        last = [own] if own is not None and own.block_ids else []
        place = self._key(seeker)
        later = [s for s in self._who_wait(seeker.effective_class) if _is_held(s) or self._key(s) > place]
        if seeker.effective_class is LS:
            victims = [*_of(kept, BE), *self._best_effort_victims(), *_of(kept, LS), *later, *last]
            return self._free(need, victims) or self._free(need, victims, may_break_iterations=True)
        # A program comes again, and others go on meanwhile: what is kept is given up only where nobody does, or
        # where best-effort work was passed over for too long.
        runs = any(other.state is SequenceState.IN_BATCH for other in self._begun.values())
        may_release = not runs or self._work.guard.is_promoted
        return self._free(need, [*later, *kept, *(last if may_release else [])], may_release=may_release)

    def _free(self, need: Need, victims: list[Sequence], **may: bool) -> bool:
        """Moves victims until nothing is lacking, and names all of them first; `may` as `choose` has it."""
        moves = [] if need.is_met else choose(victims, need, self._memory, self._is_worth_moving, **may)
        for move in moves or ():
            self._carry_out(move)
        return moves is not None

    def _best_effort_victims(self) -> list[Sequence]:
        """Returns best-effort sequences: those that wait, then those in iterations of their own; last to run first."""
        in_batch = [
            other
            for other in self._begun.values()
            # One that rides stays: others could not go on without it.
            if other.effective_class is BE and other.state is SequenceState.IN_BATCH and not other.rides
            if other.block_ids
        ]
        return [*self._who_wait(BE), *sorted(in_batch, key=self._key, reverse=True)]

    def _who_wait(self, request_class: RequestClass) -> list[Sequence]:
        """Returns the sequences of a class that wait and hold blocks: held ones, then the others, last to run first."""
        waiting = [
            other
            for other in self._begun.values()
            if other.effective_class is request_class and other.state in _WAITING
        ]
        able = (other for other in waiting if other.block_ids and other.seq_id not in self.aside)
        return sorted(able, key=lambda other: (_is_held(other), *self._key(other)), reverse=True)

    def _kept(self) -> list[Sequence]:
        """Returns what is kept on the device for next turns, first victim first."""
        return [kept.sequence for kept in self._sessions.victims() if kept.sequence.block_ids]

    def _is_worth_moving(self, victim: Sequence) -> bool:
        """Whether moving its cache out and back is predicted to take less than computing it again."""
        num_tokens = victim.num_computed_tokens + self._work.num_under_way(victim)
        outlook = self._work.outlook
        return outlook.move_s(len(victim.block_ids)) <= outlook.recompute_s(num_tokens)

    def _carry_out(self, move: Move) -> None:
        if move.tier is not None:
            self._memory.offload(move.sequence, move.tier)
        elif move.sequence.state is SequenceState.FINISHED:
            self._release(move.sequence)
        else:
            self.start_over(move.sequence)


def _is_held(sequence: Sequence) -> bool:
    return sequence.state is SequenceState.HELD


def _of(sequences: list[Sequence], request_class: RequestClass) -> list[Sequence]:
    return [sequence for sequence in sequences if sequence.effective_class is request_class]
