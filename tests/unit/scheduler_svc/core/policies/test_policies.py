"""What each policy runs next, and with whom."""

from collections.abc import Iterator
from itertools import groupby, pairwise

import pytest

from scheduler_svc.core.policies import POLICIES, BatchPlan, Limits, Policy, View
from scheduler_svc.core.policies.base import Choice
from scheduler_svc.core.starvation import StarvationLimits
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.core.state.queues import BE_DECODE, BE_PREFILL
from scheduler_svc.core.state.sequence import Sequence
from tests.support.core.simulation import BE, LS, Simulation, small_model

NO_GUARD = StarvationLimits(min_share=0.0, threshold=0)


def order_of_first_runs(sim: Simulation) -> list[int]:
    order: list[int] = []
    for _, _, _, batches in sim.worker.history:
        order += [seq_id for batch in batches for seq_id in batch.items if seq_id not in order]
    return order


def first_batch(sim: Simulation) -> set[int]:
    return set(sim.worker.history[0][3][0].items)


def test_the_registry_knows_the_four_policies_by_name() -> None:
    assert set(POLICIES) == {"qllm", "paper", "priority-iteration", "fcfs"}
    assert all(policy.name == name for name, policy in POLICIES.items())


def test_fcfs_ignores_the_class() -> None:
    sim = Simulation("fcfs", limits=Limits(max_num_seqs=1, control_lead_s=0.0))
    sim.submit(BE, 20, 2)
    sim.submit(BE, 20, 2)
    sim.submit(LS, 20, 2)
    sim.run()
    assert order_of_first_runs(sim) == [1, 2, 3]


@pytest.mark.parametrize("policy", ["qllm", "priority-iteration", "paper"])
def test_the_others_serve_latency_sensitive_work_first(policy: str) -> None:
    sim = Simulation(policy, limits=Limits(max_num_seqs=1, control_lead_s=0.0), starvation=NO_GUARD)
    sim.submit(BE, 20, 2)
    sim.submit(BE, 20, 2)
    sim.submit_at(0.001, LS, 20, 2)
    sim.run()
    assert order_of_first_runs(sim) == [1, 3, 2]


@pytest.mark.parametrize("policy", ["fcfs", "priority-iteration"])
def test_policies_of_whole_iterations_never_stop_inside_one(policy: str) -> None:
    sim = Simulation(policy, preempt_at=PreemptAt.EXPERT)
    for i in range(10):
        sim.submit_at(0.01 * i, LS if i % 2 else BE, 100, 5)
    sim.run()
    assert {advance.until.layer for _, _, advance, _ in sim.worker.history} == {sim.model.num_layers}
    assert sim.scheduler.counters.num_preemptions_at_expert == 0


def paper(size: int = 4) -> Simulation:
    return Simulation("paper", limits=Limits(max_num_seqs=size, control_lead_s=0.0))


def test_paper_line_2_pads_latency_sensitive_prompts_with_best_effort_prompts() -> None:
    sim = paper()
    for request_class in (BE, BE, BE, BE, LS):
        sim.submit(request_class, 10, 1)
    sim.run()
    assert first_batch(sim) == {5, 1, 2, 3}


def test_paper_line_3_pads_latency_sensitive_decodes_with_best_effort_decodes() -> None:
    sim = paper()
    for request_class in (BE, BE, LS):
        sim.submit(request_class, 10, 3)
    sim.run()
    assert set(sim.worker.history[-1][3][0].items) == {1, 2, 3}


def test_paper_line_1_runs_a_full_batch_of_latency_sensitive_decodes_before_any_prompt() -> None:
    sim = paper(size=2)
    sim.submit(LS, 10, 4)
    sim.submit(LS, 10, 4)
    sim.submit_at(0.001, LS, 10, 4)
    sim.run()
    batches = [set(batches[0].items) for _, _, _, batches in sim.worker.history]
    assert batches.index({3}) > max(i for i, members in enumerate(batches) if members == {1, 2})


def test_paper_lines_4_and_5_start_no_best_effort_prompt_before_every_decode_has_drained() -> None:
    sim = paper(size=2)
    for _ in range(3):
        sim.submit(BE, 10, 5)
    sim.run()
    assert order_of_first_runs(sim) == [1, 2, 3]
    third = next(i for i, entry in enumerate(sim.worker.history) if 3 in entry[3][0].items)
    assert all(entry[3][0].items.keys() == {3} for entry in sim.worker.history[third:])


def test_paper_computes_whole_prompts() -> None:
    sim = paper()
    sim.submit(BE, 3000, 1)
    sim.run()
    assert [item.num_tokens for item in sim.worker.history[0][3][0].items.values()] == [3000]


def iterations(sim: Simulation) -> list[list[int]]:
    """Who took part in each iteration."""
    batches = {id(batch): sorted(batch.items) for *_, (batch, *_) in sim.worker.history}
    return list(batches.values())


def test_decodes_that_do_not_all_find_a_place_take_turns() -> None:
    sim = paper(size=4)
    for _ in range(12):
        sim.submit(LS, 10, 30)
        sim.submit(BE, 10, 2)
    sim.run()
    for seq_id in range(1, 24, 2):
        numbers = [number for number, seq_ids in enumerate(iterations(sim)) if seq_id in seq_ids]
        assert max(after - before for before, after in pairwise(numbers)) <= 12 / 4 + 3  # three iterations of prompts


def test_the_paper_takes_at_most_its_32_whatever_the_bound() -> None:
    sim = paper(size=256)
    for _ in range(40):
        sim.submit(LS, 10, 2)
    sim.run()
    assert max(len(batch.items) for *_, (batch, *_) in sim.worker.history) == 32


def test_a_prompt_is_begun_only_where_its_decode_has_a_place() -> None:
    sim = Simulation(limits=Limits(max_num_seqs=3, control_lead_s=0.0))
    for _ in range(5):
        sim.submit(LS, 10, 6)
    sim.run()
    assert iterations(sim) == [[1, 2, 3]] * 6 + [[4, 5]] * 6


def test_whoever_decodes_takes_nothing_from_what_a_prompt_may_compute_in_one_iteration() -> None:
    sim = Simulation(limits=Limits(ls_chunk_tokens=64, control_lead_s=0.0))
    for _ in range(6):
        sim.submit(LS, 10, 20)
    sim.run(until_s=0.1)
    sim.submit(LS, 64, 1)
    sim.run()
    sizes = [sorted(i.num_tokens for i in batch.items.values()) for *_, (batch, *_) in sim.worker.history]
    assert [1] * 6 + [64] in sizes


def test_a_best_effort_iteration_is_all_decodes_and_prompt_chunks_up_to_the_budget() -> None:
    sim = Simulation(limits=Limits(be_chunk_tokens=64, control_lead_s=0.0))
    sim.submit(BE, 10, 50)
    sim.submit_at(0.1, BE, 200, 2)
    sim.run()
    mixed = [sorted(i.num_tokens for i in b[0].items.values()) for *_, b in sim.worker.history if len(b[0].items) == 2]
    assert [1, 63] in mixed


def test_best_effort_prompts_take_long_chunks_as_long_as_nobody_decodes() -> None:
    limits = Limits(be_chunk_tokens=64, be_max_chunk_tokens=150, control_lead_s=0.0)
    sim = Simulation(limits=limits)
    sim.submit(BE, 190, 2)
    sim.submit(BE, 140, 1)
    sim.run()
    chunks = [sorted(i.num_tokens for i in b[0].items.values()) for *_, b in sim.worker.history]
    assert [chunk for chunk, _ in groupby(chunks)] == [[150], [40, 110], [1, 30]]


def chunks_beside_decodes(num_prompts: int, num_outputs: int, policy: str = "qllm", lead_s: float = 0.0) -> list[int]:
    """Tokens of iterations in which four sequences with so many outputs decode and 500-token prompts are computed."""
    limits = Limits(be_chunk_tokens=64, be_max_chunk_tokens=300, control_lead_s=lead_s)
    sim = Simulation(policy, limits=limits)
    for _ in range(4):
        sim.submit(BE, 8, num_outputs)
    sim.run(until_s=0.05)
    for _ in range(num_prompts):
        sim.submit(BE, 500, 1)
    sim.run()
    iterations = {id(b): [i.num_tokens for i in b.items.values()] for *_, (b, *_) in sim.worker.history}
    return [sum(tokens) for tokens in iterations.values() if tokens.count(1) == 4 and len(tokens) > 4]


@pytest.mark.parametrize("lead_s", [0.0, 0.02])
def test_prompts_take_short_chunks_where_decodes_need_as_many_iterations_and_longer_ones_where_they_pile_up(
    lead_s: float,
) -> None:
    few, many = chunks_beside_decodes(2, 400, lead_s=lead_s), chunks_beside_decodes(12, 100, lead_s=lead_s)
    assert set(few[:10]) == {64}
    assert min(many[:4]) > 200
    assert max(many) <= 300


def test_iterations_that_stop_nowhere_keep_short_chunks() -> None:
    assert set(chunks_beside_decodes(12, 100, "priority-iteration")) == {64}


def test_latency_sensitive_prompts_are_not_padded_with_best_effort_work() -> None:
    sim = Simulation(starvation=NO_GUARD)
    for _ in range(5):
        sim.submit(BE, 50, 5)
    sim.submit(LS, 50, 5)
    sim.run()
    assert first_batch(sim) == {6}


def test_a_long_best_effort_queue_is_served_in_order_of_arrival() -> None:
    sim = Simulation(model=small_model(experts_by_layer=(2,), num_experts_per_token=2))
    for _ in range(200):
        sim.submit(BE, 60, 2)
    sim.run()
    firsts = order_of_first_runs(sim)
    assert firsts == sorted(firsts)


class LastComeFirstServed(Policy):
    name = "lcfs"

    def queue_key(self, sequence: Sequence) -> tuple[float, ...]:
        return (-sequence.arrival_s,)

    def preferences(self, view: View) -> Iterator[Choice]:
        if batch := view.open_batch(BE):
            yield batch
        elif not view.awaits_result(BE):
            yield BatchPlan((BE_DECODE, BE_PREFILL), max_sequences=1)


def test_a_new_policy_is_a_class_with_preferences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POLICIES, "lcfs", LastComeFirstServed)
    sim = Simulation("lcfs")
    for i in range(3):
        sim.submit_at(0.001 * i, BE, 20, 1)
    sim.run()
    assert order_of_first_runs(sim) == [1, 3, 2]
