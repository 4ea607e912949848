"""Experts run in every layout of transformers, once for all who wait, and for nobody else."""

from typing import Any

import pytest
import torch

from gpu_worker.errors import PassFailed
from gpu_worker.experts import queues as experts
from gpu_worker.experts.matrices import DenseMatrix, MatrixForm, PackedMatrix
from gpu_worker.experts.queues import ExpertQueues, ExpertWork, LayerExperts, is_experts, run_jointly
from tests.support.models.families import random_model


def _experts_module(family: str, dtype: torch.dtype = torch.float64) -> Any:
    """The experts of a tiny model's last layer, with biases that are not zero."""
    model = random_model(family, dtype=dtype)
    module = [m for m in model.modules() if is_experts(m)][-1]
    for name, parameter in module.named_parameters():
        if "bias" in name:
            parameter.normal_()
    model.set_experts_implementation("eager")
    return module


def _work(module: Any, num_tokens: int, seed: int) -> ExpertWork:
    generator = torch.Generator().manual_seed(seed)
    dtype = module.down_proj.dtype
    hidden = torch.randn(num_tokens, 64, generator=generator, dtype=dtype)
    scores = torch.rand(num_tokens, int(module.num_experts), generator=generator, dtype=dtype)
    weights, expert_ids = scores.topk(2)
    return ExpertWork(module, hidden, expert_ids, weights)


def _run(weights: LayerExperts, num_experts: int, all_queues: list[ExpertQueues]) -> int:
    """Runs everything that waits, jointly; returns how often an expert ran."""
    num_runs = 0
    for expert in range(num_experts):
        waiting = [queues for queues in all_queues if queues.next_expert == expert]
        if waiting:
            run_jointly(weights, waiting, expert)
            num_runs += 1
    return num_runs


@pytest.mark.parametrize(
    ("form", "dtype"), [(DenseMatrix, torch.float64), (PackedMatrix, torch.float32)], ids=["dense", "packed"]
)
@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "qwen3_moe", "deepseek_v3", "granitemoe"])
def test_joint_runs_give_each_pass_what_the_model_s_own_experts_give(
    family: str, form: MatrixForm, dtype: torch.dtype
) -> None:
    module = _experts_module(family, dtype)
    works = [_work(module, num_tokens, seed) for seed, num_tokens in enumerate((7, 1, 20))]
    expected = [module(work.hidden, work.expert_ids, work.weights) for work in works]
    queues = [ExpertQueues(work, module.num_experts, None) for work in works]
    assert _run(LayerExperts(module, form), module.num_experts, queues) <= module.num_experts
    for done, output in zip(queues, expected, strict=True):
        assert done.is_done
        torch.testing.assert_close(done.result(), output, rtol=1e-4, atol=1e-4)


def test_packed_weights_live_with_their_experts_and_no_longer_in_the_model() -> None:
    module = _experts_module("gpt_oss", torch.float32)
    num_bytes = sum(parameter.nbytes for parameter in module.parameters())
    assert LayerExperts(module, PackedMatrix).nbytes == num_bytes
    assert module.gate_up_proj.nbytes == module.down_proj.nbytes == 0


def test_dense_weights_are_slices_of_the_model_s_own() -> None:
    module = _experts_module("gpt_oss", torch.float32)
    experts = LayerExperts(module, DenseMatrix)
    assert experts.nbytes == sum(parameter.nbytes for parameter in module.parameters())
    pointers = [matrix.weight.untyped_storage().data_ptr() for matrix in (*experts._up, *experts._down)]
    assert set(pointers) == {p.untyped_storage().data_ptr() for p in (module.gate_up_proj, module.down_proj)}


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "qwen3_moe", "deepseek_v3", "granitemoe"])
def test_all_experts_at_once_give_what_the_model_s_own_give(family: str) -> None:
    module = _experts_module(family, torch.float32)
    work = _work(module, 9, 1)
    expected = module(work.hidden, work.expert_ids, work.weights)
    experts = LayerExperts(module, DenseMatrix)
    assert experts.runs_whole
    torch.testing.assert_close(experts.run_whole(work), expected, rtol=1e-4, atol=1e-4)


def test_packed_experts_run_one_by_one() -> None:
    module = _experts_module("mixtral", torch.float32)
    work = _work(module, 3, 1)
    experts = LayerExperts(module, PackedMatrix)
    assert not experts.runs_whole
    with pytest.raises(PassFailed, match="one by one"):
        experts.run_whole(work)


def test_rows_that_leave_in_the_middle_change_no_other_row() -> None:
    module = _experts_module("mixtral")
    work = _work(module, 12, 3)
    expected = module(work.hidden, work.expert_ids, work.weights)
    weights = LayerExperts(module, DenseMatrix)
    queues = ExpertQueues(work, 8, None)
    while queues.next_expert < 4:
        run_jointly(weights, [queues], queues.next_expert)
    live = torch.arange(12) % 3 != 0
    queues.keep(live)
    while not queues.is_done:
        assert queues.num_tokens(queues.next_expert) <= int(live.sum())
        run_jointly(weights, [queues], queues.next_expert)
    torch.testing.assert_close(queues.result()[live], expected[live])


@pytest.mark.parametrize("most_rows", [1, 2, 5, 9])
def test_an_expert_of_many_tokens_runs_in_bounded_parts(most_rows: int) -> None:
    module = _experts_module("mixtral")
    works = [_work(module, num_tokens, seed) for seed, num_tokens in enumerate((30, 3, 17))]
    expected = [module(work.hidden, work.expert_ids, work.weights) for work in works]
    weights = LayerExperts(module, DenseMatrix)
    weights.most_rows = most_rows
    queues = [ExpertQueues(work, 8, None) for work in works]
    num_pairs = 0
    while standing := [queue for queue in queues if not queue.is_done]:
        expert = min(queue.next_expert for queue in standing)
        num_run = run_jointly(weights, [queue for queue in standing if queue.next_expert == expert], expert)
        assert 0 < num_run <= most_rows
        num_pairs += num_run
    assert num_pairs == 2 * (30 + 3 + 17)
    for queue, output in zip(queues, expected, strict=True):
        torch.testing.assert_close(queue.result(), output)


@pytest.mark.parametrize("num_runs", range(12))
def test_rows_that_leave_in_the_middle_of_an_expert_are_run_no_more_and_no_other_twice(num_runs: int) -> None:
    module = _experts_module("mixtral")
    work = _work(module, 20, 4)
    expected = module(work.hidden, work.expert_ids, work.weights)
    weights = LayerExperts(module, DenseMatrix)
    weights.most_rows = 2
    queues = ExpertQueues(work, 8, None)
    num_given = sum(run_jointly(weights, [queues], queues.next_expert) for _ in range(num_runs))
    live = torch.arange(20) % 3 != 0
    queues.keep(live)
    num_waiting = sum(map(queues.num_tokens, range(8)))
    assert 2 * 20 - num_given >= num_waiting >= 2 * int(live.sum()) - num_given
    while not queues.is_done:
        run_jointly(weights, [queues], queues.next_expert)
    torch.testing.assert_close(queues.result()[live], expected[live])


def test_experts_without_tokens_are_passed_over() -> None:
    hidden = torch.zeros(2, 4)
    expert_ids = torch.tensor([[5, 2], [5, 7]])
    queues = ExpertQueues(ExpertWork(torch.nn.Identity(), hidden, expert_ids, torch.ones(2, 2)), 8, None)
    visited = []
    while not queues.is_done:
        visited.append((queues.next_expert, queues.num_tokens(queues.next_expert)))
        queues.give(torch.zeros(visited[-1][1], 4))
    assert visited == [(2, 1), (5, 2), (7, 1)]


def test_ids_past_the_last_expert_are_no_work() -> None:
    expert_ids = torch.tensor([[8, 1], [8, 8]])
    queues = ExpertQueues(ExpertWork(torch.nn.Identity(), torch.ones(2, 4), expert_ids, torch.ones(2, 2)), 8, None)
    assert queues.next_expert == 1
    queues.give(torch.ones(1, 4))
    assert queues.is_done
    assert queues.result().tolist() == [[1.0] * 4, [0.0] * 4]


def test_outputs_are_summed_in_the_precision_of_the_routing_weights() -> None:
    work = ExpertWork(
        torch.nn.Identity(), torch.zeros(1, 4, dtype=torch.bfloat16), torch.tensor([[0, 1, 2]]), torch.ones(1, 3)
    )
    queues = ExpertQueues(work, 3, None)
    for output in (256.0, 1.0, 1.0):
        queues.give(torch.full((1, 4), output, dtype=torch.bfloat16))
    assert queues.result().tolist() == [[258.0] * 4]  # bfloat16 has no 257: there the sum would stay at 256
    assert queues.result().dtype is torch.bfloat16


@pytest.mark.parametrize("num_tokens", [1, 5, 40, 300])
def test_few_and_many_tokens_wait_in_the_same_order(num_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expert_ids = torch.randint(0, 9, (num_tokens, 3), generator=torch.Generator().manual_seed(num_tokens))
    hidden = torch.arange(float(num_tokens))[:, None]
    waiting = []
    for few in (0, 1 << 30):
        monkeypatch.setattr(experts, "_FEW_PAIRS", few)
        queues = ExpertQueues(ExpertWork(torch.nn.Identity(), hidden, expert_ids, torch.ones(num_tokens, 3)), 8, None)
        waiting.append([queues.inputs(expert).flatten().tolist() for expert in range(8)])
    assert waiting[0] == waiting[1]
    assert sum(map(len, waiting[0])) == int((expert_ids < 8).sum())


def test_what_was_given_and_not_summed_yet_is_held_and_counted() -> None:
    work = _work(_experts_module("mixtral"), 4, 5)
    queues = ExpertQueues(work, 8, None)
    before = queues.nbytes
    y = torch.ones(queues.num_tokens(queues.next_expert), 64, dtype=torch.float64)
    queues.give(y)
    assert queues.nbytes == before + y.nbytes


def test_a_run_that_raises_changes_nothing() -> None:
    class Failing:
        most_rows = 8

        def run(self, expert: int, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("unlucky")

    module = _experts_module("mixtral")
    queues = ExpertQueues(_work(module, 5, 6), 8, None)
    before = (queues.next_expert, queues.nbytes, queues.result().clone())
    with pytest.raises(RuntimeError, match="unlucky"):
        run_jointly(Failing(), [queues], queues.next_expert)
    assert (queues.next_expert, queues.nbytes) == before[:2]
    assert torch.equal(queues.result(), before[2])
