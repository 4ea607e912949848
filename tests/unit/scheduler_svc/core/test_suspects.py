"""Who may have killed a worker runs alone, and is not put off for that."""

import pytest

from scheduler_svc.core.policies import Limits
from scheduler_svc.core.state.sequence import Sequence
from tests.support.core.simulation import BE, LS, Simulation, small_model


def suspect(sim: Simulation, num_prompt: int, max_tokens: int) -> Sequence:
    """Queues a best-effort sequence that a worker died of, perhaps."""
    sequence = sim.submit(BE, num_prompt, max_tokens)
    sequence.note_death(was_alone=False)
    sim.scheduler.work.suspects.add(sequence)
    return sequence


@pytest.mark.parametrize("tpot_s", [0.05, 0.2])
def test_a_suspect_is_not_kept_waiting_by_others_that_ride(tpot_s: float) -> None:
    sim = Simulation(model=small_model(num_blocks=8192), limits=Limits(ls_tpot_s=tpot_s))
    for request_class, number in ((LS, 3), (BE, 4)):
        for _ in range(number):
            sim.submit(request_class, 40, 600)
    sim.run(until_s=1.0)
    assert sim.scheduler.counters.num_riders
    waiting = [suspect(sim, 200, 5) for _ in range(3)]
    sim.run(until_s=4.0)
    assert len(sim.scheduler.sequences) >= 7  # the others go on meanwhile
    assert all(sequence.first_token_s for sequence in waiting)
    num_riders = sim.scheduler.counters.num_riders
    sim.run(until_s=5.0)
    assert sim.scheduler.counters.num_riders > num_riders
