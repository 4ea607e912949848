"""The real core and the real model over memory that is short: programs that come again, shared beginnings, all tiers.

Commands that admit, grow, share, offload, restore, drop, keep and expire are whatever the core makes of a history.
After each event both sides' books agree, and every token is that of `generate`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpu_worker.cache.disk_store import DiskStore
from scheduler_svc.core.policies import POLICIES, Limits
from scheduler_svc.core.sessions import Programs, SessionLimits
from scheduler_svc.core.state.sequence import RequestClass, Sequence, SequenceState, SessionTurn, Tier
from tests.support.core.model_worker import ModelWorker, model_of
from tests.support.core.simulation import BE, LS, Simulation
from tests.support.models.families import generated
from tests.support.worker.worker_driver import loaded, random_prompts

FAMILY = "mixtral"
NUM_TOKENS = 4
BEGINNING, *QUESTIONS = random_prompts((17, 6, 9, 3))
SALTS = (b"", b"apart")
MOST_TURNS = 3


class Program(NamedTuple):
    """Turns that repeat all that was said before.

    Attributes:
        arrives_s: When the first one comes.
        begins_alike: Whether its first prompt begins as others' do.
        question: What it asks, first and in each turn.
        tools_s: How long the tool runs before each further turn.
        aborts_after_s: How long after its last turn came that is given up; None: it is not.
    """

    arrives_s: float
    request_class: RequestClass
    begins_alike: bool
    question: int
    salt: bytes
    tools_s: list[float]
    aborts_after_s: float | None


PROGRAMS = st.lists(
    st.builds(
        Program,
        st.floats(0, 0.2),
        st.sampled_from((LS, BE)),
        st.booleans(),
        st.integers(0, len(QUESTIONS) - 1),
        st.sampled_from(SALTS),
        st.lists(st.floats(0, 0.3), max_size=MOST_TURNS - 1),
        st.none() | st.floats(0, 0.2),
    ),
    min_size=2,
    max_size=5,
)


@pytest.fixture(autouse=True)
def _engine_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


class Table:
    """Both sides, and the programs that come to them."""

    def __init__(self, policy: str, num_blocks: int, num_host_blocks: int, num_disk_blocks: int, ttl_s: float) -> None:
        model = model_of(loaded(FAMILY), num_blocks, num_host_blocks, num_disk_blocks=num_disk_blocks)
        limits = Limits(be_chunk_tokens=16, ls_chunk_tokens=24, preemption_quantum_s=0.001, control_lead_s=0.001)
        sessions = Programs(SessionLimits(session_ttl_s=ttl_s))
        self.sim = Simulation(policy, model=model, limits=limits, sessions=sessions)
        self.asked: list[Sequence] = []
        self.pump, self.sim._pump = self.sim._pump, self.checked_pump  # type: ignore[method-assign]

    def sit_down(self, name: str, program: Program) -> None:
        prompt = (BEGINNING if program.begins_alike else ()) + QUESTIONS[program.question]
        self.sim.at(program.arrives_s, lambda: self.ask(name, program, prompt))

    def ask(self, name: str, program: Program, prompt: tuple[int, ...]) -> None:
        """One turn; when it ends, the next one is asked after the tool."""
        tools_s = program.tools_s
        session = SessionTurn(name, "tool", last_turn=not tools_s)
        sequence = self.sim.submit(program.request_class, prompt, NUM_TOKENS, session=session, salt=program.salt)
        self.asked.append(sequence)
        if tools_s:
            again = prompt + generated(FAMILY, (prompt,), NUM_TOKENS)[0] + QUESTIONS[program.question]
            rest = program._replace(tools_s=tools_s[1:])
            self.sim.on_end[sequence.seq_id] = lambda: self.sim.at(
                self.sim.now_s + tools_s[0], lambda: self.ask(name, rest, again)
            )
        elif program.aborts_after_s is not None:
            gives_up_s = self.sim.now_s + program.aborts_after_s
            self.sim.at(gives_up_s, lambda: self.sim.scheduler.abort(sequence.seq_id, self.sim.now_s))

    def checked_pump(self) -> None:
        self.pump()
        self.sim.check_integrity()
        self.sim.check_goes_on()
        assert isinstance(self.sim.worker, ModelWorker)
        self.sim.worker.runner.cache.check_integrity()

    def check_end(self) -> None:
        """Checks all tokens, and that nothing is held once what is kept has expired."""
        for sequence in self.asked:
            tokens = tuple(self.sim.tokens(sequence.seq_id))
            expected = generated(FAMILY, (sequence.prompt_token_ids,), NUM_TOKENS)[0]
            assert sequence.state is SequenceState.FINISHED
            assert tokens == expected[: len(tokens)]
            is_last = sequence.session is not None and sequence.session.last_turn
            assert is_last or len(tokens) == NUM_TOKENS
        self.sim.at(self.sim.now_s + 1e4, lambda: None)  # nothing is kept for so long
        self.sim.run()
        memory, model = self.sim.scheduler.memory, self.sim.model
        assert self.sim.scheduler.sessions.num_kept == 0
        assert memory.pool.num_free == model.num_blocks
        assert memory.num_free_by_tier == {Tier.HOST: model.num_host_blocks, Tier.DISK: model.num_disk_blocks}
        assert not self.sim.worker.tables


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    programs=PROGRAMS,
    policy=st.sampled_from(sorted(POLICIES)),
    num_blocks=st.sampled_from((18, 26, 100)),
    num_host_blocks=st.sampled_from((0, 8, 100)),
    num_disk_blocks=st.sampled_from((0, 20)),
    ttl_s=st.sampled_from((0.0, 0.05, 10.0)),
)
def test_both_sides_books_agree_after_every_event_and_every_token_is_that_of_generate(
    tmp_path_factory: pytest.TempPathFactory,
    programs: list[Program],
    policy: str,
    num_blocks: int,
    num_host_blocks: int,
    num_disk_blocks: int,
    ttl_s: float,
) -> None:
    table = Table(policy, num_blocks, num_host_blocks, num_disk_blocks, ttl_s)
    disk = disk_of(table.sim, tmp_path_factory.mktemp("disk")) if num_disk_blocks else None
    table.sim.worker = ModelWorker(table.sim.model, table.sim.worker.costs, loaded(FAMILY), disk)
    for number, program in enumerate(programs):
        table.sit_down(str(number), program)
    table.sim.run()
    table.check_end()


def disk_of(sim: Simulation, directory: Path) -> DiskStore:
    """Returns a store of the model's disk blocks."""
    block_bytes = ModelWorker(sim.model, sim.worker.costs, loaded(FAMILY)).runner_block_bytes
    return DiskStore(directory, sim.model.num_disk_blocks, block_bytes)
