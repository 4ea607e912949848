"""Where more generate than there are places, and no block is free, whoever is first goes on and the others give way."""

from scheduler_svc.core.beams.params import BeamParams
from scheduler_svc.core.policies import Limits
from scheduler_svc.core.state.results import Hypothesis
from tests.support.core.simulation import BE, LS, Simulation, small_model

BEAMS = BeamParams(8, 8)


def search(num_blocks: int, max_num_seqs: int) -> tuple[Simulation, tuple[Hypothesis, ...]]:
    model = small_model(num_blocks=num_blocks, num_host_blocks=100, block_size=4, max_model_len=40)
    sim = Simulation(model=model, limits=Limits(control_lead_s=0.0, max_num_seqs=max_num_seqs))
    root = sim.submit(BE, 22, 8, beams=BEAMS)
    sim.run()
    return sim, sim.hypotheses(root.seq_id)


def test_nobody_waits_for_the_room_of_those_whose_turn_it_is_not() -> None:
    _, expected = search(num_blocks=1000, max_num_seqs=16)
    sim, hypotheses = search(num_blocks=10, max_num_seqs=4)
    assert hypotheses == expected
    assert sim.scheduler.memory.counters.num_offloads > 0
    for request_class in (BE, LS):
        later = sim.submit(request_class, 5, 2)
        sim.run()
        assert sim.tokens(later.seq_id) == sim.expected_tokens(later)
