"""Prompts that are scored ride in nobody's iteration, and get as far as other best-effort work beside streams."""

import pytest

from scheduler_svc.core.policies import Limits
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.core.state.queues import SequenceQueue
from scheduler_svc.core.state.sequence import SamplingParams, SequenceState, Targets
from tests.support.core.simulation import BE, GREEDY, LS, Costs, Simulation, small_model

SCORED = SamplingParams(0.0, num_prompt_logprobs=0)
# An iteration takes 9 ms by itself; what 400 tokens add costs less than that.
COSTS = Costs(attention=(0.2, 0.001, 1e-7), expert=(0.3, 0.0005), head=(0.5, 0.01))
TPOT_S = 0.02


def beside_streams(preempt_at: PreemptAt = PreemptAt.EXPERT) -> Simulation:
    model = small_model(num_blocks=1 << 14, num_host_blocks=0)
    sim = Simulation(model=model, costs=COSTS, preempt_at=preempt_at, limits=Limits(control_lead_s=0.0))
    for _ in range(4):
        sim.submit(LS, 8, 2000, targets=Targets(0.05, TPOT_S))
    sim.run(until_s=0.5)
    return sim


def num_done(*samplings: SamplingParams) -> int:
    """How many prompts are done in two seconds beside streams, of one kind after the other."""
    sim = beside_streams()
    prompts = [sim.submit(BE, 400, 1, sampling=samplings[i % len(samplings)]) for i in range(400)]
    sim.run(until_s=2.5)
    assert all(times[-1] - times[0] <= TPOT_S * len(times) for times in sim.token_times_s.values() if times[1:])
    return sum(prompt.state is SequenceState.FINISHED for prompt in prompts)


def test_scored_prompts_get_as_far_as_others() -> None:
    plain = num_done(GREEDY)
    assert plain > 20
    assert num_done(SCORED) > plain / 2
    assert num_done(SCORED, GREEDY) > plain / 2


def test_others_ride_again_once_those_before_them_are_scored() -> None:
    sim = beside_streams()
    scored = [sim.submit(BE, 400, 1, sampling=SCORED) for _ in range(4)]
    long = [sim.submit(BE, 40, 200) for _ in range(4)]
    sim.run(until_s=2.0)
    assert all(one.state is SequenceState.FINISHED for one in scored)
    assert sim.scheduler.counters.num_riders > len(long)


@pytest.mark.parametrize("preempt_at", [PreemptAt.EXPERT, PreemptAt.ITERATION])
def test_a_decision_looks_at_few_of_many_scored_prompts(preempt_at: PreemptAt, monkeypatch: pytest.MonkeyPatch) -> None:
    sim = beside_streams(preempt_at)
    for _ in range(1000):
        sim.submit(BE, 400, 1, sampling=SCORED)
    num_popped, pop, schedule, most = 0, SequenceQueue.pop, sim.scheduler.schedule, 0

    def counted(queue: SequenceQueue) -> object:
        nonlocal num_popped
        num_popped += 1
        return pop(queue)

    def decide(now_s: float) -> object:
        nonlocal num_popped, most
        num_popped = 0
        commands = schedule(now_s)
        most = max(most, num_popped)
        return commands

    monkeypatch.setattr(SequenceQueue, "pop", counted)
    monkeypatch.setattr(sim.scheduler, "schedule", decide)
    sim.run(until_s=0.7)
    assert 0 < most < 100
