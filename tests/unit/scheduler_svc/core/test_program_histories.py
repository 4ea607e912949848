"""Whatever programs come again when, beside whatever else: tokens are right, and of what is kept nothing leaks."""

from dataclasses import dataclass, field
from typing import NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler_svc.core.policies import POLICIES, Limits
from scheduler_svc.core.scheduler import Scheduler
from scheduler_svc.core.state.sequence import RequestClass, Sequence, SequenceState, SessionTurn
from tests.support.core.simulation import BE, LS, Simulation, small_model

END = st.none() | st.none() | st.tuples(st.sampled_from(("abort", "finish")), st.floats(0, 0.5))


class Turn(NamedTuple):
    """One turn.

    Attributes:
        tool_s: Seconds until the tool has returned that was called before.
        num_new: Tokens that it returned.
        max_tokens: Tokens of the answer.
        end: How and when the caller ends it early, at a stop string or for good; None: not.
        forgets: Whether the program leaves out the first half of what was said.
    """

    tool_s: float
    num_new: int
    max_tokens: int
    end: tuple[str, float] | None
    forgets: bool


TURN = st.builds(Turn, st.floats(0, 0.4), st.integers(1, 90), st.integers(1, 20), END, st.booleans())


@dataclass
class Program:
    """One that comes again after each turn, with what was said before as its prompt."""

    sim: Simulation
    name: str
    request_class: RequestClass
    turns: list[Turn]
    tells_last: bool
    kind: int = 0
    context: tuple[int, ...] = ()
    sequences: list[Sequence] = field(default_factory=list)

    def go_on(self) -> None:
        turn, *self.turns = self.turns
        if turn.forgets:
            self.context = self.context[len(self.context) // 2 :]
        model = self.sim.model  # more than all blocks hold is refused before it comes here
        most = model.num_blocks * model.block_size - turn.num_new - turn.max_tokens
        self.context = self.context[max(0, len(self.context) - most) :]
        start = len(self.context)
        prompt = self.context + tuple((self.kind * 31 + 7 * i) % 97 for i in range(start, start + turn.num_new))
        session = SessionTurn(self.name, "tool", last_turn=self.tells_last and not self.turns)
        sequence = self.sim.submit(self.request_class, prompt, turn.max_tokens, session=session)
        self.sequences.append(sequence)
        if turn.end is not None:
            way, after_s = turn.end
            self.sim.at(self.sim.now_s + after_s, lambda: self._end(sequence, way))
        self.sim.on_end[sequence.seq_id] = lambda: self._told(sequence)

    def _end(self, sequence: Sequence, way: str) -> None:
        end = Scheduler.finish if way == "finish" else Scheduler.abort
        if end(self.sim.scheduler, sequence.seq_id, self.sim.now_s) is not None and way == "finish":
            self._told(sequence)

    def _told(self, sequence: Sequence) -> None:
        """Calls the tool, and comes again."""
        self.context = sequence.prompt_token_ids + tuple(sequence.output_token_ids)
        if self.turns:
            self.sim.at(self.sim.now_s + self.turns[0].tool_s, self.go_on)


PROGRAM = st.tuples(
    st.floats(0, 0.5),
    st.sampled_from((LS, BE)),
    st.lists(TURN, min_size=1, max_size=4),
    st.booleans(),
    st.integers(0, 1),
)
OTHER = st.tuples(
    st.floats(0, 1), st.sampled_from((LS, BE)), st.integers(1, 120), st.integers(1, 12), st.none() | st.integers(0, 1)
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    programs=st.lists(PROGRAM, min_size=1, max_size=4),
    others=st.lists(OTHER, max_size=6),
    policy=st.sampled_from(sorted(POLICIES)),
    num_blocks=st.integers(20, 50),
    num_host_blocks=st.sampled_from((0, 5, 1000)),
    num_disk_blocks=st.sampled_from((0, 8)),
    tpot_s=st.sampled_from((0.0, 0.03)),
)
def test_every_history_of_programs_serves_all_and_leaks_nothing(
    programs: list[tuple[float, RequestClass, list[Turn], bool, int]],
    others: list[tuple[float, RequestClass, int, int, int | None]],
    policy: str,
    num_blocks: int,
    num_host_blocks: int,
    num_disk_blocks: int,
    tpot_s: float,
) -> None:
    model = small_model(
        num_blocks=num_blocks, num_host_blocks=num_host_blocks, num_disk_blocks=num_disk_blocks, experts_by_layer=(4, 4)
    )
    limits = Limits(be_chunk_tokens=40, ls_chunk_tokens=64, ls_tpot_s=tpot_s)
    sim = Simulation(policy, model=model, limits=limits, checks_rows=True)
    for number, (time_s, request_class, turns, tells_last, kind) in enumerate(programs):
        sim.at(time_s, Program(sim, f"program {number}", request_class, turns, tells_last, kind).go_on)
    for time_s, *other, alike in others:
        sim.at(time_s, lambda other=other, alike=alike: sim.submit(*other, alike=alike))  # type: ignore[misc]
    original = sim._pump

    def checked_pump() -> None:
        original()
        sim.check_integrity()
        sim.check_goes_on()

    sim._pump = checked_pump  # type: ignore[method-assign]
    sim.run()
    for sequence in sim.sequences.values():
        assert sequence.state is SequenceState.FINISHED
        tokens = sim.tokens(sequence.seq_id)
        assert tokens == sim.expected_tokens(sequence)[: len(tokens)]
        was_cut = sequence.session is not None and len(tokens) < sequence.stop.max_tokens
        assert was_cut or len(tokens) == sequence.stop.max_tokens
    sim.at(sim.now_s + 4000.0, lambda: None)  # nothing is kept for so long
    sim.run()
    assert sim.scheduler.sessions.num_kept == 0
    assert sim.scheduler.memory.pool.num_free == num_blocks
    assert sim.scheduler.memory.num_free_host_blocks == num_host_blocks


def test_the_next_turn_finds_what_was_kept_for_it_even_where_others_filled_the_device_meanwhile() -> None:
    sim = Simulation(model=small_model(num_blocks=40))
    turns = [Turn(0.0, 200, 8, None, False), Turn(2.0, 20, 8, None, False)]
    program = Program(sim, "agent", LS, turns, tells_last=True)
    sim.at(0.0, program.go_on)
    for i in range(30):
        sim.submit_at(0.5 + 0.05 * i, LS, 300, 4)
    sim.run()
    second = program.sequences[1]
    assert second.num_cached_tokens == 192  # all full blocks of the 207 tokens that were computed
    assert sim.scheduler.memory_load().num_session_hits == 1


def test_a_turn_that_shares_nothing_with_what_is_kept_of_its_own_program_is_not_kept_out_by_it() -> None:
    for request_class in (LS, BE):
        sim = Simulation(model=small_model(num_blocks=20, num_host_blocks=0))
        turns = [Turn(0.0, 160, 3, None, False), Turn(0.1, 200, 3, None, True)]
        program = Program(sim, "agent", request_class, turns, tells_last=False)
        sim.at(0.0, program.go_on)
        sim.run()
        assert [len(sequence.output_token_ids) for sequence in program.sequences] == [3, 3]


def test_a_turn_ended_by_a_stop_string_while_it_fills_a_block_keeps_no_next_turn_waiting() -> None:
    for after_s in (0.01 * i for i in range(1, 30)):
        sim = Simulation()
        turns = [Turn(0.0, 60, 40, ("finish", after_s), False), Turn(0.01, 20, 3, None, False)]
        program = Program(sim, "agent", LS, turns, tells_last=False)
        sim.at(0.0, program.go_on)
        sim.run()
        assert len(program.sequences[-1].output_token_ids) == 3


def test_best_effort_work_is_not_put_off_for_what_is_kept_where_the_host_has_room() -> None:
    sim = Simulation(model=small_model(num_blocks=96, num_host_blocks=500))
    for number in range(4):
        sim.submit(LS, 200, 3, session=SessionTurn(f"agent {number}", "tool"))
    asked: list[Sequence] = []
    sim.at(1.0, lambda: asked.append(sim.submit(BE, 700, 20)))
    for i in range(30):
        sim.submit_at(0.9 + 0.6 * i, LS, 20, 120)
    sim.run(20)
    assert asked[0].first_token_s is not None
    assert asked[0].first_token_s < 5.0


def test_a_prompt_behind_one_that_finds_no_room_does_not_hold_what_that_one_needs() -> None:
    sim = Simulation(model=small_model(num_blocks=40), limits=Limits(be_chunk_tokens=150))
    for num_prompt, alike in ((120, 1), (600, 1), (300, None)):
        sim.submit(BE, num_prompt, 3, alike=alike)
    sim.run()
    assert all(len(sequence.output_token_ids) == 3 for sequence in sim.sequences.values())


def test_who_is_moved_out_of_a_first_iteration_comes_back_to_its_own_blocks_though_others_computed_the_same() -> None:
    for arrives_s in (0.004, 0.01, 0.02, 0.05, 0.1):
        sim = Simulation(model=small_model(num_blocks=32))
        sim.submit(BE, 300, 4, alike=1)
        sim.at(arrives_s, lambda sim=sim: sim.submit(LS, 330, 3, alike=1))  # type: ignore[misc]
        sim.run()
        assert [len(sequence.output_token_ids) for sequence in sim.sequences.values()] == [4, 3]


def test_a_first_iteration_is_moved_and_not_computed_again_where_the_host_has_room() -> None:
    sim = Simulation(model=small_model(num_blocks=40, num_host_blocks=500))
    sim.submit(BE, 500, 3)
    for i in range(3):
        sim.submit_at(0.05 + 0.3 * i, LS, 300, 3)
    sim.run()
    counters = sim.scheduler.memory.counters
    assert counters.num_offloads > 0
    assert counters.num_drops == 0
