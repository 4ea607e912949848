"""Each block that is held counts once, for the first owner that holds it."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from scheduler_svc.core.cache.load import read_load
from scheduler_svc.core.policies import POLICIES
from scheduler_svc.core.scheduler import Scheduler
from scheduler_svc.core.state.ids import BlockId, SeqId
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, Sequence, StopConditions
from tests.support.service.fakes import served_model

MODEL = replace(served_model().core, block_bytes=1)
LS, BE, KEPT = "latency-sensitive", "best-effort", "kept"


@given(st.lists(st.tuples(st.sampled_from([LS, BE, KEPT]), st.integers(0, 3), st.integers(0, 3)), max_size=8))
def test_a_block_that_several_hold_counts_for_the_first_owner(tables: list[tuple[str, int, int]]) -> None:
    memory = Scheduler(MODEL, POLICIES["qllm"]()).memory
    common = memory.pool.allocate(4)
    sequences: dict[str, list[Sequence]] = {LS: [], BE: [], KEPT: []}
    for number, (owner, num_shared, num_own) in enumerate(tables):
        sequences[owner].append(sequence_of(number, owner))
        memory.pool.share(common[:num_shared])
        sequences[owner][-1].block_ids = [*common[:num_shared], *memory.pool.allocate(num_own)]
    memory.pool.release(common)

    counters = Scheduler(MODEL, POLICIES["qllm"]()).counters
    load = read_load(MODEL, memory, [*sequences[BE], *sequences[LS]], sequences[KEPT], counters)

    seen: set[BlockId] = set()
    for owner, found in ((LS, load.latency_sensitive_bytes), (BE, load.best_effort_bytes), (KEPT, load.session_bytes)):
        held = {block for sequence in sequences[owner] for block in sequence.block_ids}
        assert found == len(held - seen)
        seen |= held


def sequence_of(number: int, owner: str) -> Sequence:
    request_class = RequestClass.LATENCY_SENSITIVE if owner == LS else RequestClass.BEST_EFFORT
    return Sequence(SeqId(number), request_class, (5, 6), SamplingParams(), StopConditions(9), 0.0)
