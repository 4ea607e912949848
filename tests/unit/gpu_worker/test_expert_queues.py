"""Experts run in every layout of transformers, once for all who wait, and for nobody else."""

from typing import Any

import pytest
import torch

from gpu_worker.experts import DenseExperts, ExpertQueues, ExpertWork, run_jointly
from tests.families import random_model


def _experts_module(family: str) -> Any:
    """The experts of a tiny model's last layer, with biases that are not zero."""
    model = random_model(family, dtype=torch.float64)
    module = [m for m in model.modules() if hasattr(m, "_is_expert_parallel")][-1]
    for name, parameter in module.named_parameters():
        if "bias" in name:
            parameter.normal_()
    model.set_experts_implementation("eager")
    return module


def _work(module: Any, num_tokens: int, seed: int) -> ExpertWork:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_tokens, 64, generator=generator, dtype=torch.float64)
    scores = torch.rand(num_tokens, int(module.num_experts), generator=generator, dtype=torch.float64)
    weights, expert_ids = scores.topk(2)
    return ExpertWork(module, hidden, expert_ids, weights)


def _run(weights: DenseExperts, num_experts: int, all_queues: list[ExpertQueues]) -> int:
    """Runs everything that waits, jointly; returns how often an expert ran."""
    num_runs = 0
    for expert in range(num_experts):
        waiting = [queues for queues in all_queues if queues.next_expert == expert]
        if waiting:
            run_jointly(weights, waiting, expert)
            num_runs += 1
    return num_runs


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "qwen3_moe", "deepseek_v3", "granitemoe"])
def test_joint_runs_give_each_pass_what_the_model_s_own_experts_give(family: str) -> None:
    module = _experts_module(family)
    works = [_work(module, num_tokens, seed) for seed, num_tokens in enumerate((7, 1, 20))]
    queues = [ExpertQueues(work, module.num_experts, None) for work in works]
    assert _run(DenseExperts(module), module.num_experts, queues) <= module.num_experts
    for work, done in zip(works, queues, strict=True):
        assert done.is_done
        torch.testing.assert_close(done.result(), module(work.hidden, work.expert_ids, work.weights))


def test_rows_that_leave_in_the_middle_change_no_other_row() -> None:
    module = _experts_module("mixtral")
    work, weights = _work(module, 12, 3), DenseExperts(module)
    queues = ExpertQueues(work, 8, None)
    while queues.next_expert < 4:
        run_jointly(weights, [queues], queues.next_expert)
    live = torch.arange(12) % 3 != 0
    queues.keep(live)
    while not queues.is_done:
        assert queues.num_tokens(queues.next_expert) <= int(live.sum())
        run_jointly(weights, [queues], queues.next_expert)
    expected = module(work.hidden, work.expert_ids, work.weights)
    torch.testing.assert_close(queues.result()[live], expected[live])


def test_experts_without_tokens_are_passed_over() -> None:
    hidden = torch.zeros(2, 4)
    expert_ids = torch.tensor([[5, 2], [5, 7]])
    queues = ExpertQueues(ExpertWork(torch.nn.Identity(), hidden, expert_ids, torch.ones(2, 2)), 8, None)
    visited = []
    while not queues.is_done:
        visited.append((queues.next_expert, queues.num_tokens(queues.next_expert)))
        queues.give(queues.next_expert, torch.zeros(visited[-1][1], 4))
    assert visited == [(2, 1), (5, 2), (7, 1)]


def test_ids_past_the_last_expert_are_no_work() -> None:
    expert_ids = torch.tensor([[8, 1], [8, 8]])
    queues = ExpertQueues(ExpertWork(torch.nn.Identity(), torch.ones(2, 4), expert_ids, torch.ones(2, 2)), 8, None)
    assert queues.next_expert == 1
    queues.give(1, torch.ones(1, 4))
    assert queues.is_done
    assert queues.result().tolist() == [[1.0] * 4, [0.0] * 4]


def test_outputs_are_summed_in_the_precision_of_the_routing_weights() -> None:
    work = ExpertWork(
        torch.nn.Identity(), torch.zeros(1, 4, dtype=torch.bfloat16), torch.tensor([[0, 1]]), torch.ones(1, 2)
    )
    queues = ExpertQueues(work, 2, None)
    queues.give(0, torch.full((1, 4), 256.0, dtype=torch.bfloat16))
    queues.give(1, torch.full((1, 4), 1.0, dtype=torch.bfloat16))
    assert queues._output.tolist() == [[257.0] * 4]  # bfloat16 has no 257
    assert queues.result().dtype is torch.bfloat16


def test_a_run_that_raises_changes_nothing() -> None:
    class Failing:
        def run(self, expert: int, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("unlucky")

    module = _experts_module("mixtral")
    queues = ExpertQueues(_work(module, 5, 6), 8, None)
    before = (queues.next_expert, queues._output.clone())
    with pytest.raises(RuntimeError, match="unlucky"):
        run_jointly(Failing(), [queues], queues.next_expert)
    assert queues.next_expert == before[0]
    assert torch.equal(queues._output, before[1])
