"""What many forks take at once does not grow with those that are there besides, while there is room for all."""

import pytest

from scheduler_svc.core.policies import Limits
from scheduler_svc.core.room import Room
from scheduler_svc.core.state.sequence import SamplingParams, Sequence
from tests.support.core.simulation import BE, LS, Simulation, small_model


def test_nobody_is_looked_for_who_might_give_way_where_forks_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(num_blocks=1 << 12, num_host_blocks=0)
    sim = Simulation(model=model, limits=Limits(control_lead_s=0.0, be_chunk_tokens=1 << 12))
    for _ in range(8):
        sim.submit(BE, 8, 50)
    sim.run(until_s=0.1)
    choices = sim.submit_choices(LS, 20, [SamplingParams(1.0, seed=seed) for seed in range(16)], 2)
    num_looks, look = 0, Room._best_effort_victims

    def counted(room: Room) -> list[Sequence]:
        nonlocal num_looks
        num_looks += 1
        return look(room)

    monkeypatch.setattr(Room, "_best_effort_victims", counted)
    sim.run()
    assert all(sim.tokens(choice.seq_id) for choice in choices)
    assert num_looks == 0
