"""Whatever programs come again when, beside whatever else: tokens are right, and of what is kept nothing leaks."""

from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler_svc.core.policies import POLICIES, Limits
from scheduler_svc.core.state.sequence import RequestClass, Sequence, SequenceState, SessionTurn
from tests.support.core.simulation import BE, LS, Simulation, small_model

# Seconds until the tool returns, tokens that it returns, tokens of the answer, when the caller gives up.
Turn = tuple[float, int, int, float | None]
TURN = st.tuples(st.floats(0, 0.4), st.integers(1, 40), st.integers(1, 12), st.none() | st.none() | st.floats(0, 0.5))


@dataclass
class Program:
    """One that comes again after each turn, with all that was said before as its prompt."""

    sim: Simulation
    name: str
    request_class: RequestClass
    turns: list[Turn]
    tells_last: bool
    context: tuple[int, ...] = ()
    sequences: list[Sequence] = field(default_factory=list)

    def go_on(self) -> None:
        (_, num_new, max_tokens, gives_up_s), *rest = self.turns
        start = len(self.context)
        prompt = self.context + tuple((sum(map(ord, self.name)) + 7 * i) % 97 for i in range(start, start + num_new))
        session = SessionTurn(self.name, "tool", last_turn=self.tells_last and not rest)
        sequence = self.sim.submit(self.request_class, prompt, max_tokens, session=session)
        self.sequences.append(sequence)
        self.context = prompt + tuple(self.sim.expected_tokens(sequence))
        if gives_up_s is not None:
            self.sim.at(self.sim.now_s + gives_up_s, lambda: self.sim.scheduler.abort(sequence.seq_id, self.sim.now_s))
        if rest:
            self.turns = rest
            self.sim.on_end[sequence.seq_id] = lambda: self.sim.at(self.sim.now_s + rest[0][0], self.go_on)


PROGRAM = st.tuples(st.floats(0, 0.5), st.sampled_from((LS, BE)), st.lists(TURN, min_size=1, max_size=4), st.booleans())
OTHER = st.tuples(st.floats(0, 1), st.sampled_from((LS, BE)), st.integers(1, 120), st.integers(1, 12))


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
    programs: list[tuple[float, RequestClass, list[Turn], bool]],
    others: list[tuple[float, RequestClass, int, int]],
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
    sim = Simulation(policy, model=model, limits=limits)
    live = []
    for number, (time_s, request_class, turns, tells_last) in enumerate(programs):
        live.append(program := Program(sim, f"program {number}", request_class, turns, tells_last))
        sim.at(time_s, program.go_on)
    for time_s, request_class, num_prompt, max_tokens in others:
        sim.submit_at(time_s, request_class, num_prompt, max_tokens)
    original = sim._pump

    def checked_pump() -> None:
        original()
        sim.check_integrity()

    sim._pump = checked_pump  # type: ignore[method-assign]
    sim.run()
    given_up = {s.seq_id for program in live for s in program.sequences if s.seq_id in sim.on_end or _is_cut(s)}
    for sequence in sim.sequences.values():
        assert sequence.state is SequenceState.FINISHED
        tokens, expected = sim.tokens(sequence.seq_id), sim.expected_tokens(sequence)
        assert tokens == (expected[: len(tokens)] if sequence.seq_id in given_up else expected)
    sim.at(sim.now_s + 4000.0, lambda: None)  # nothing is kept for so long
    sim.run()
    assert sim.scheduler.sessions.num_kept == 0
    assert sim.scheduler.memory.pool.num_free == num_blocks
    assert sim.scheduler.memory.num_free_host_blocks == num_host_blocks


def _is_cut(sequence: Sequence) -> bool:
    return len(sequence.output_token_ids) < sequence.stop.max_tokens


def test_the_next_turn_finds_what_was_kept_for_it_even_where_others_filled_the_device_meanwhile() -> None:
    sim = Simulation(model=small_model(num_blocks=40))
    program = Program(sim, "agent", LS, [(0.0, 200, 8, None), (2.0, 20, 8, None)], tells_last=True)
    sim.at(0.0, program.go_on)
    for i in range(30):
        sim.submit_at(0.5 + 0.05 * i, LS, 300, 4)
    sim.run()
    second = program.sequences[1]
    assert second.num_cached_tokens == 192  # all full blocks of the 207 tokens that were computed
    assert sim.scheduler.memory_load().num_session_hits == 1
