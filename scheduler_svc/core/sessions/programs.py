"""Remembers programs from turn to turn: when each arrived, what its last turn left, and how long that is kept.

    arrives ──▶ began ──▶ ends ──────────▶ kept ──▶ arrives, with its cache at hand ──▶ release, once it was taken over
                           │                 └────▶ expired, or a victim ──▶ release
                           └─▶ nothing kept: remembered for its place in the order

Owns no memory: whoever does holds what is kept, and releases it. Time is an argument. Source: arXiv 2511.02230.
"""

from collections import OrderedDict
from dataclasses import replace

from scheduler_svc.core.sessions.experience import Experience
from scheduler_svc.core.sessions.limits import SessionLimits
from scheduler_svc.core.sessions.program import Kept, Program, ProgramKey, key_of
from scheduler_svc.core.sessions.tool_times import MAX_DURATION_S, ToolTimes
from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.sequence import Sequence

# Programs of which nobody waits and nothing is kept. Of more, those that were idle longest are forgotten.
MAX_IDLE_PROGRAMS = 4096
# A program that did not come again for so long is over; for its tool that counts as having taken so long.
MAX_IDLE_S = MAX_DURATION_S
# By how much the arrival of its program brings a request forward, so that one that never ends starves nobody.
MAX_AHEAD_S = 600.0
_OVER_S, _NEVER_S = -float("inf"), float("inf")


class Programs:
    """The programs of one model, over all lives of its worker.

    Args:
        limits: For how long caches are kept.
        tool_times: How long tools took; it may hold what was learned before.

    Attributes:
        experience: What was learned.
        num_hits: Turns of a program after its first whose cache was kept when they came, since the worker joined.
        num_misses: Turns of a program after its first of which nothing was kept when they came.
    """

    def __init__(self, limits: SessionLimits | None = None, tool_times: ToolTimes | None = None) -> None:
        self.experience = Experience(limits or SessionLimits(), ToolTimes() if tool_times is None else tool_times)
        self.num_hits = 0
        self.num_misses = 0
        self._programs: dict[ProgramKey, Program] = {}
        self._idle: OrderedDict[ProgramKey, Program] = OrderedDict()  # nobody waits, nothing is kept
        self._kept: dict[SeqId, Kept] = {}
        self._next_expiry_s = _NEVER_S

    # ---- turns come and go

    def arrives(self, sequence: Sequence, now_s: float) -> None:
        """Takes in a new request, before it is queued: gives it its place in the order, and counts its find.

        Sets `order_s` and `goes_ahead`. A request without a session is left as it is.
        """
        key = key_of(sequence)
        if key is None:
            return
        self._forget_idle(now_s)
        # One whose worker was lost has its place already: its program goes on from there.
        came_s = now_s if sequence.order_s is None else sequence.order_s
        program = self._programs.setdefault(key, Program(came_s))
        self._idle.pop(key, None)
        if program.ended_s is not None:
            self.experience.tool_times.record(program.tool, now_s - program.ended_s)
            program.ended_s = None
        comes_again, finds = program.num_turns > 0, program.kept is not None
        self.num_hits += comes_again and finds
        self.num_misses += comes_again and not finds
        program.waits[sequence.seq_id] = comes_again and not finds
        sequence.order_s = max(program.arrival_s, now_s - MAX_AHEAD_S)
        sequence.goes_ahead = program.kept is not None and now_s <= program.kept.until_s

    def kept_for(self, sequence: Sequence) -> Sequence | None:
        """Returns the finished sequence of its program whose cache is kept, on the device or moved off it."""
        program = self._find(sequence)
        return program.kept.sequence if program is not None and program.kept is not None else None

    def began(self, sequence: Sequence, queue_s: float) -> None:
        """Takes in how long a request waited until it began."""
        program = self._find(sequence)
        if program is not None and program.waits.get(sequence.seq_id):
            self.experience.queued(queue_s)

    def ends(self, sequence: Sequence, now_s: float, reload_s: float) -> bool:
        """Takes in that a turn ended whole; returns whether its cache is to be kept until it is released.

        What was kept of an earlier turn of its program is over then, as `expired` will say.

        Args:
            sequence: The turn.
            now_s: The time.
            reload_s: What it would cost to have its cache again, in seconds: computed, or brought back.
        """
        program = self._leave(sequence)
        if program is None or sequence.session is None:
            return False
        program.num_turns += 1
        if sequence.session.last_turn:
            self.experience.turn_counts.program_ended(program.num_turns)
            self._end(sequence, program)
            return False
        program.ended_s, program.tool, program.reload_s = now_s, sequence.session.expects_tool_call, reload_s
        lifetime_s = self.experience.lifetime_s(program.tool, reload_s)
        if lifetime_s > 0:
            self._end_keeping(program)
            self._keep(Kept(sequence, now_s + lifetime_s), program)
        self._rest(sequence, program)
        self._forget_idle(now_s)
        return lifetime_s > 0

    def calls(self, sequence: Sequence, tool: str) -> None:
        """Takes in that a turn calls a tool, as its text shows once it is read: the turn may have ended meanwhile.

        What its request said of the tool counts more.
        """
        session = sequence.session
        if session is None or session.expects_tool_call or session.last_turn:
            return
        sequence.session = replace(session, expects_tool_call=tool)
        program = self._find(sequence)
        if program is None or program.ended_s is None or program.waits or program.tool:
            return
        program.tool = tool
        if program.kept is not None and program.kept.sequence is sequence:
            lifetime_s = self.experience.lifetime_s(tool, program.reload_s)
            self._keep(Kept(sequence, program.ended_s + lifetime_s), program)

    def fails(self, sequence: Sequence) -> None:
        """Takes in that a turn ended without an answer that is whole, which ends its program unless others wait."""
        program = self._leave(sequence)
        if program is not None and not program.waits:
            self._end(sequence, program)

    def worker_lost(self) -> None:
        """Takes in that all caches are gone, with nothing left to release.

        Requests that waited or ran arrive again with the next worker, and begin their programs anew, at their place.
        """
        self._kept.clear()
        self._next_expiry_s = _NEVER_S
        self.num_hits = self.num_misses = 0  # as all counters of a worker's life
        for key, program in list(self._programs.items()):
            program.kept = None
            if program.waits:
                del self._programs[key]
            else:
                self._idle[key] = program

    # ---- what is kept

    @property
    def num_kept(self) -> int:
        """Sequences that are kept and not released."""
        return len(self._kept)

    @property
    def next_expiry_s(self) -> float:
        """When to ask `expired` again at the latest; infinity if nothing is kept that will expire by itself."""
        return self._next_expiry_s

    def expired(self, now_s: float) -> list[Kept]:
        """Returns what is to be released: its time is over, and no request of its program waits or runs."""
        if now_s < self._next_expiry_s:
            return []
        may_expire = [kept for kept in self._kept.values() if self._may_expire(kept)]
        self._next_expiry_s = min((kept.until_s for kept in may_expire), default=_NEVER_S)
        return [kept for kept in may_expire if kept.until_s <= now_s]

    def victims(self) -> list[Kept]:
        """Returns all that is kept, in the order in which it may be released for a request that could not run else.

        First what is over, then that of the program that arrived last. What a request waits for comes at the end.
        """
        return sorted(self._kept.values(), key=self._rank)

    def release(self, sequence: Sequence) -> None:
        """Takes in that a sequence is kept no more: the next turn has its blocks, or they were given up."""
        self._kept.pop(sequence.seq_id, None)
        program = self._find(sequence)
        if program is not None and program.kept is not None and program.kept.sequence is sequence:
            program.kept = None
            self._rest(sequence, program)

    # ---- inside

    def _find(self, sequence: Sequence) -> Program | None:
        key = key_of(sequence)
        return None if key is None else self._programs.get(key)

    def _leave(self, sequence: Sequence) -> Program | None:
        """Takes a request out of its program; returns that, or None if it is in none."""
        program = self._find(sequence)
        return program if program is not None and program.waits.pop(sequence.seq_id, None) is not None else None

    def _rest(self, sequence: Sequence, program: Program) -> None:
        """Notes how a program goes on of which no request waits any more, if that is so."""
        key = key_of(sequence)
        if program.waits or key is None:
            return
        if program.kept is None:
            self._idle[key] = program
        else:
            self._next_expiry_s = min(self._next_expiry_s, program.kept.until_s)

    def _end(self, sequence: Sequence, program: Program) -> None:
        """Forgets a program. Where requests of it wait still, they are the first ones of another."""
        self._end_keeping(program)
        key = key_of(sequence)
        program.num_turns, program.ended_s = 0, None
        if not program.waits and key is not None:
            self._programs.pop(key, None)

    def _end_keeping(self, program: Program) -> None:
        """Lets what is kept of a program expire at once."""
        if program.kept is not None:
            self._kept[program.kept.sequence.seq_id] = Kept(program.kept.sequence, _OVER_S)
            self._next_expiry_s = _OVER_S
            program.kept = None

    def _keep(self, kept: Kept, program: Program) -> None:
        program.kept = self._kept[kept.sequence.seq_id] = kept
        if not program.waits:
            self._next_expiry_s = min(self._next_expiry_s, kept.until_s)

    def _may_expire(self, kept: Kept) -> bool:
        program = self._find(kept.sequence)
        return kept.until_s == _OVER_S or program is None or not program.waits

    def _rank(self, kept: Kept) -> tuple[bool, bool, float, int]:
        program = self._find(kept.sequence)
        arrival_s = 0.0 if program is None else program.arrival_s
        return (kept.until_s != _OVER_S, not self._may_expire(kept), -arrival_s, -kept.sequence.seq_id)

    def _forget_idle(self, now_s: float) -> None:
        """Forgets the programs that were idle for too long, and of too many those that were so longest."""
        while self._idle:
            key, program = next(iter(self._idle.items()))
            is_over = program.ended_s is not None and now_s - program.ended_s >= MAX_IDLE_S
            if not is_over and len(self._idle) <= MAX_IDLE_PROGRAMS:
                return
            if is_over:
                self.experience.tool_times.record(program.tool, MAX_IDLE_S)
                self.experience.turn_counts.program_ended(program.num_turns)
            del self._idle[key], self._programs[key]
