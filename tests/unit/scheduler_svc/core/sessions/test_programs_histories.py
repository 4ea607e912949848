"""Any history of a few programs, beside a model of what must hold."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scheduler_svc.core.sessions import Programs, SessionLimits, ToolTimes
from scheduler_svc.core.sessions.experience import Experience
from scheduler_svc.core.sessions.programs import MAX_AHEAD_S, MAX_IDLE_S
from scheduler_svc.core.state.sequence import Sequence
from tests.unit.scheduler_svc.core.sessions.turns import turn


class AsTold(Experience):
    """Has caches kept for as long as they cost to have again."""

    def lifetime_s(self, tool: str, reload_s: float) -> float:
        return reload_s


class ProgramsMachine(RuleBasedStateMachine):
    """Arrivals, ends, failures, expiries, releases and victims, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.programs = Programs()
        self.programs.experience = AsTold(SessionLimits(), ToolTimes())
        self.now_s = 0.0
        self.waiting: dict[Sequence, str] = {}
        self.arrival_s: dict[str, float] = {}  # of the programs that are remembered
        self.num_turns: dict[str, int] = {}
        self.ended_s: dict[str, float] = {}  # when the last turn that ended did so
        self.newest: dict[str, Sequence] = {}  # kept, by its program
        self.until_s: dict[Sequence, float] = {}  # of all that is kept; what is over for good: 0
        self.num_found = self.num_came_again = 0

    @rule(seconds=st.integers(1, 12).map(lambda n: n / 2))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def hours_pass(self) -> None:
        self.now_s += 2 * MAX_IDLE_S

    @rule(name=st.sampled_from("abc"), last=st.booleans())
    def arrives(self, name: str, last: bool) -> None:
        self._forget_idle()
        sequence = turn(name, self.now_s, last=last)
        newest = self.newest.get(name)
        comes_again = self.num_turns.get(name, 0) > 0
        self.num_came_again += comes_again
        self.num_found += comes_again and newest is not None
        self.programs.arrives(sequence, self.now_s)
        assert self.programs.kept_for(sequence) is newest
        assert sequence.order_s == max(self.arrival_s.setdefault(name, self.now_s), self.now_s - MAX_AHEAD_S)
        assert sequence.goes_ahead == (newest is not None and self.now_s <= self.until_s[newest])
        self.waiting[sequence] = name

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), lifetime_s=st.sampled_from([0.0, 2.0, 5.0]))
    def ends(self, data: st.DataObject, lifetime_s: float) -> None:
        sequence, name = self._take(data)
        is_kept = self.programs.ends(sequence, self.now_s, lifetime_s)
        assert sequence.session is not None
        assert is_kept == (lifetime_s > 0 and not sequence.session.last_turn)
        if is_kept:
            self._end_keeping(name)
            self.newest[name], self.until_s[sequence] = sequence, self.now_s + lifetime_s
        if sequence.session.last_turn:
            self._end(name)
            return
        self.num_turns[name] = self.num_turns.get(name, 0) + 1
        self.ended_s[name] = self.now_s
        self._forget_idle()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def fails(self, data: st.DataObject) -> None:
        sequence, name = self._take(data)
        self.programs.fails(sequence)
        if name not in self.waiting.values():
            self._end(name)

    @rule(num_released=st.integers(0, 2))
    def what_is_over_expires(self, num_released: int) -> None:
        expired = self.programs.expired(self.now_s)
        due = {each for each, until_s in self.until_s.items() if until_s <= self.now_s and not self._is_awaited(each)}
        assert {kept.sequence for kept in expired} == due
        for kept in expired[:num_released]:
            self._release(kept.sequence)

    @precondition(lambda self: self.until_s)
    @rule()
    def the_first_victim_gives_way(self) -> None:
        victims = self.programs.victims()
        over, rest = (
            [k for k in victims if not self.until_s[k.sequence]],
            [k for k in victims if self.until_s[k.sequence]],
        )
        idle = [kept for kept in rest if not self._is_awaited(kept.sequence)]
        assert victims == over + idle + [kept for kept in rest if kept not in idle]
        arrivals = [self.arrival_s[name] for name in (self._name(kept.sequence) for kept in idle)]
        assert arrivals == sorted(arrivals, reverse=True)
        self._release(victims[0].sequence)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def a_turn_takes_over_what_is_kept(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(list(self.waiting)))
        found = self.programs.kept_for(sequence)
        if found is not None:
            self._release(found)

    @rule()
    def the_worker_is_lost(self) -> None:
        self.programs.worker_lost()
        self.num_found = self.num_came_again = 0
        for name in set(self.waiting.values()):
            self.arrival_s.pop(name)
            self.num_turns.pop(name, None)
            self.ended_s.pop(name, None)
        for held in (self.waiting, self.newest, self.until_s):
            held.clear()

    @invariant()
    def all_that_is_kept_is_known_until_it_is_released(self) -> None:
        assert self.programs.num_kept == len(self.until_s)
        assert {kept.sequence for kept in self.programs.victims()} == set(self.until_s)

    @invariant()
    def nothing_expires_unnoticed(self) -> None:
        may_expire = [until_s for each, until_s in self.until_s.items() if not self._is_awaited(each)]
        assert self.programs.next_expiry_s <= min(may_expire, default=float("inf"))

    @invariant()
    def every_turn_after_a_programs_first_is_a_hit_or_a_miss(self) -> None:
        assert self.programs.num_hits == self.num_found
        assert self.programs.num_hits + self.programs.num_misses == self.num_came_again

    def _take(self, data: st.DataObject) -> tuple[Sequence, str]:
        sequence = data.draw(st.sampled_from(list(self.waiting)))
        return sequence, self.waiting.pop(sequence)

    def _is_awaited(self, kept: Sequence) -> bool:
        return bool(self.until_s[kept]) and self._name(kept) in self.waiting.values()

    def _name(self, sequence: Sequence) -> str:
        assert sequence.session is not None
        return sequence.session.session_id

    def _release(self, sequence: Sequence) -> None:
        self.programs.release(sequence)
        del self.until_s[sequence]
        if self.newest.get(self._name(sequence)) is sequence:
            del self.newest[self._name(sequence)]

    def _end_keeping(self, name: str) -> None:
        if name in self.newest:
            self.until_s[self.newest.pop(name)] = 0.0

    def _forget_idle(self) -> None:
        for name in [each for each in self.arrival_s if each not in self.newest]:
            is_over = self.now_s - self.ended_s.get(name, self.now_s) >= MAX_IDLE_S
            if is_over and name not in self.waiting.values():
                del self.arrival_s[name], self.ended_s[name]
                self.num_turns[name] = 0

    def _end(self, name: str) -> None:
        self._end_keeping(name)
        self.num_turns[name] = 0
        if name not in self.waiting.values():
            del self.arrival_s[name]
            self.ended_s.pop(name, None)


TestProgramsHistories = ProgramsMachine.TestCase
TestProgramsHistories.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
