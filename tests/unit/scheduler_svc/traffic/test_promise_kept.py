"""What latency-sensitive requests are promised is kept in virtual time, and best-effort work gets the rest."""

import random
from itertools import pairwise

import pytest

from scheduler_svc.core.policies import Limits
from scheduler_svc.core.starvation import StarvationLimits
from scheduler_svc.core.state.sequence import Sequence
from tests.support.core.simulation import BE, LS, Costs, Simulation, small_model

NO_GUARD = StarvationLimits(min_share=0.0, threshold=0)
TPOT_S = 0.05
SLOW = Costs(attention=(2.0, 0.1, 2e-5), expert=(3.0, 0.3), head=(5.0, 1.0))


def simulation(tpot_s: float = TPOT_S, ttft_s: float = 0.0, costs: Costs | None = None) -> Simulation:
    limits = Limits(ls_tpot_s=tpot_s, ls_ttft_s=ttft_s, control_lead_s=0.0)
    return Simulation(limits=limits, starvation=NO_GUARD, costs=costs)


def answer_beside_decodes(
    tpot_s: float, num_decodes: int = 6, costs: Costs | None = None
) -> tuple[Simulation, Sequence]:
    """A latency-sensitive answer of 40 tokens beside best-effort sequences that decode all the time."""
    sim = simulation(tpot_s, costs=costs)
    for _ in range(num_decodes):
        sim.submit(BE, 8, 3000)
    sim.run(until_s=0.4)
    answer = sim.submit(LS, 8, 40)
    sim.run(until_s=sim.now_s + 20.0)
    return sim, answer


def test_every_token_comes_in_time_though_best_effort_work_fills_the_worker() -> None:
    sim, answer = answer_beside_decodes(TPOT_S)
    first_s, *further_s = sim.token_times_s[answer.seq_id]
    assert sim.scheduler.counters.num_riders > 100
    for number, token_s in enumerate(further_s, start=1):
        assert token_s <= first_s + number * TPOT_S + 1e-6
    counts = sim.scheduler.counters.classes[LS]
    assert (counts.num_paced_in_time, counts.num_paced, counts.num_attained) == (1, 1, 1)


def test_without_a_target_latency_sensitive_work_is_computed_by_itself_as_fast_as_possible() -> None:
    sim, answer = answer_beside_decodes(0.0)
    times_s = sim.token_times_s[answer.seq_id]
    alone, only = simulation(0.0), []
    only.append(alone.submit(LS, 8, 40))
    alone.run()
    assert sim.scheduler.counters.num_riders == 0
    assert times_s[-1] - times_s[0] == pytest.approx(answer_s(alone, only[0]), rel=0.01)


def answer_s(sim: Simulation, sequence: Sequence) -> float:
    times_s = sim.token_times_s[sequence.seq_id]
    return times_s[-1] - times_s[0]


def test_a_longer_target_gives_best_effort_work_more() -> None:
    tokens = []
    for tpot_s in (0.0, 0.02, 0.05, 0.1):
        sim, answer = answer_beside_decodes(tpot_s, num_decodes=20)
        ended_s = max(sim.token_times_s[answer.seq_id])
        be_times = [t for s in sim.sequences.values() if s.request_class is BE for t in sim.token_times_s[s.seq_id]]
        tokens.append(sum(0.4 < t <= ended_s for t in be_times) / (ended_s - 0.4))
    assert tokens[0] == 0.0
    assert tokens[0] < tokens[1] < 0.9 * tokens[2]
    assert tokens[3] == pytest.approx(tokens[2], rel=0.05)  # by then all of them ride


def test_a_prompt_that_was_left_standing_goes_on_between_iterations() -> None:
    sim = simulation()
    for _ in range(3):
        sim.submit(BE, 1500, 1)
    sim.run(until_s=0.2)
    answer = sim.submit(LS, 8, 60)
    sim.run()
    counts = sim.scheduler.counters
    assert counts.num_preemptions_at_expert + counts.num_preemptions_at_layer > 5
    assert answer_s(sim, answer) <= 59 * TPOT_S


def test_a_batch_that_an_arrival_left_standing_is_over_before_its_members_ride() -> None:
    sim, answer = answer_beside_decodes(TPOT_S)
    first_led = next(i for i, e in enumerate(sim.worker.history) if answer.seq_id in e[3][0].items)
    behind = [e[3][0] for e in sim.worker.history[first_led + 1 :]]
    first_ridden = next(i for i, batch in enumerate(behind) if batch.request_class is LS and len(batch.items) > 1)
    assert any(batch.request_class is BE for batch in behind[:first_ridden])


def test_where_latency_sensitive_work_alone_misses_its_target_best_effort_work_at_most_doubles_that() -> None:
    tpot_s = 0.05
    alone = simulation(tpot_s, costs=SLOW)
    only = alone.submit(LS, 8, 40)
    alone.run()
    alone_s = answer_s(alone, only) / 39
    assert alone_s > tpot_s
    sim, answer = answer_beside_decodes(tpot_s, num_decodes=3, costs=SLOW)
    assert alone_s < answer_s(sim, answer) / 39 <= 2 * alone_s - tpot_s + 1e-3
    assert sim.scheduler.counters.num_riders > 0


def test_a_target_for_first_tokens_lets_best_effort_work_go_on_for_as_long() -> None:
    waits_s = {}
    for ttft_s in (0.0, 0.3):
        sim = simulation(ttft_s=ttft_s)
        for _ in range(4):
            sim.submit(BE, 1500, 1)
        sim.run(until_s=0.2)
        prompt = sim.submit(LS, 40, 1)
        sim.run()
        waits_s[ttft_s] = sim.token_times_s[prompt.seq_id][0] - prompt.arrival_s
    assert waits_s[0.0] < 0.1
    assert 0.15 < waits_s[0.3] <= 0.3


@pytest.mark.parametrize("seed", range(4))
def test_answers_of_many_requests_at_a_load_that_can_be_served_come_in_time(seed: int) -> None:
    rng = random.Random(seed)
    sim = simulation()
    for _ in range(30):
        sim.submit_at(rng.uniform(0, 10), BE, rng.choice((5, 60, 700)), rng.randint(1, 120))
    for number in range(12):
        sim.submit_at(0.3 + number + rng.uniform(0, 0.3), LS, rng.randint(30, 60), rng.randint(2, 20))
    sim.run()
    counts = sim.scheduler.counters.classes[LS]
    assert counts.num_paced_in_time == counts.num_paced >= 12
    assert counts.num_first_tokens_in_time >= 11


def gaps_ms(sim: Simulation, sequence: Sequence) -> list[float]:
    return [1e3 * (after - before) for before, after in pairwise(sim.token_times_s[sequence.seq_id])]


@pytest.mark.parametrize("num_requests", [20, 60])
def test_eight_tokens_after_an_overload_everything_is_as_if_it_had_never_been(num_requests: int) -> None:
    """An overload leaves streams late and best-effort work waiting; neither decides anything later."""
    seen = []
    for is_overloaded in (False, True):
        sim = simulation()
        for number in range(num_requests if is_overloaded else 0):
            sim.submit_at(0.01 * number, LS, 60, 30)
        sim.run()
        quiet_s = 100.0
        for _ in range(6):
            sim.submit_at(quiet_s, BE, 8, 3000)
        sim.submit_at(quiet_s + 0.4, LS, 8, 60)
        sim.run(until_s=quiet_s + 20)
        seen.append(gaps_ms(sim, [s for s in sim.sequences.values() if s.request_class is LS][-1]))
    assert len(seen[0]) == len(seen[1]) == 59
    for fresh, after in list(zip(*seen, strict=True))[8:]:
        assert after == pytest.approx(fresh, rel=0.05)


def test_a_stream_that_lived_through_an_overload_paces_itself_as_before_within_twelve_tokens() -> None:
    sim = simulation()
    for _ in range(6):
        sim.submit(BE, 8, 3000)
    sim.run(until_s=0.4)
    answer = sim.submit(LS, 8, 120)
    for number in range(40):
        sim.submit_at(1.0 + 0.001 * number, LS, 400, 1)
    sim.run(until_s=40.0)
    gaps = gaps_ms(sim, answer)
    late = [number for number, gap in enumerate(gaps) if gap > 4 * 1e3 * TPOT_S]
    assert len(late) > 10  # it was late by far more than is made up for
    assert late[-1] + 12 < len(gaps) - 20
    for settled in gaps[late[-1] + 12 :]:
        assert settled == pytest.approx(gaps[-1], rel=0.1)


def test_best_effort_sequences_whose_cache_is_on_the_host_keep_nobody_from_riding() -> None:
    sim = Simulation(limits=Limits(control_lead_s=0.0), model=small_model(num_blocks=48))
    for _ in range(3):
        sim.submit(BE, 50, 150)
    sim.run(until_s=0.6)
    sim.submit(LS, 8, 300)
    sim.run(until_s=0.7)
    sim.submit(LS, 560, 2)  # needs the blocks of some of them
    sim.run(until_s=2.0)
    assert sim.scheduler.memory.counters.num_offloads > 0
    be_times_s = [t for s in sim.sequences.values() if s.request_class is BE for t in sim.token_times_s[s.seq_id]]
    sim.run(until_s=4.0)
    later_s = [t for s in sim.sequences.values() if s.request_class is BE for t in sim.token_times_s[s.seq_id]]
    assert len(later_s) - len(be_times_s) > 60
    assert sim.scheduler.memory.num_offloaded == 0  # they came back while latency-sensitive work went on
