"""Where more generate than there are places, and no block is free, whoever is first goes on and the others give way."""

from scheduler_svc.core.policies import Limits
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.core.state.sequence import SamplingParams
from tests.support.core.simulation import LS, Simulation, small_model


def test_nobody_waits_for_the_room_of_those_whose_turn_it_is_not() -> None:
    model = small_model(num_blocks=7, num_host_blocks=0, max_model_len=112)
    limits = Limits(control_lead_s=0.0, max_num_seqs=1, ls_chunk_tokens=48)
    sim = Simulation("fcfs", model=model, limits=limits, preempt_at=PreemptAt.ITERATION)
    choices = sim.submit_choices(LS, 79, [SamplingParams(0.0)] * 4, 10)
    sim.run()
    assert [sim.tokens(choice.seq_id) for choice in choices] == [sim.expected_tokens(choices[0])] * 4
    assert sim.scheduler.memory.counters.num_drops > 0
