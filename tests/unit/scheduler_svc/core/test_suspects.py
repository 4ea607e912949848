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


def test_a_suspect_is_not_kept_waiting_by_iterations_that_are_begun_one_in_the_other() -> None:
    sim = Simulation(model=small_model(num_blocks=8192), limits=Limits())
    for _ in range(4):
        sim.submit(BE, 40, 600)
    sim.run(until_s=1.0)
    waiting = suspect(sim, 200, 5)
    sim.run(until_s=2.0)
    assert waiting.first_token_s
    assert len(sim.scheduler.sequences) == 4
    sim.run()


def test_nobody_new_is_begun_before_a_suspect_that_waits_for_room() -> None:
    sim = Simulation(model=small_model(num_blocks=64, num_host_blocks=0), limits=Limits(control_lead_s=0.0))
    sim.submit(BE, 400, 200)  # half of the blocks
    sim.run(until_s=0.2)
    waiting = suspect(sim, 800, 5)  # more than is left of them
    others = [sim.submit(BE, 100, 5) for _ in range(20)]
    sim.run()
    first_run_s = waiting.first_run_s
    assert first_run_s is not None
    assert all(other.first_run_s and other.first_run_s > first_run_s for other in others)
