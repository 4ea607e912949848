"""Products are timed as a model would run them, and one that this CPU lacks counts as endlessly slow."""

from math import inf, prod, sqrt

import pytest
import torch
from torch import Tensor

from gpu_worker.experts.matrices import DenseMatrix, MatrixForm
from gpu_worker.model import type_trials
from gpu_worker.model.type_trials import ROWS, Trial, largest_shapes, shortest, time_types
from gpu_worker.model.weights import WeightOptions
from tests.support.models.families import random_model


def test_decodes_and_prompts_count_half_each() -> None:
    float32_s = (1.0,) * 5
    assert Trial((2.0, 2.0, 2.0, 1.0, 1.0), float32_s).slowdown == pytest.approx(sqrt(2))
    assert Trial((1.0, 1.0, 1.0, 2.0, 2.0), float32_s).slowdown == pytest.approx(sqrt(2))
    assert Trial((0.5, 0.5, 0.5, 2.0, 2.0), float32_s).slowdown == pytest.approx(1.0)
    assert Trial((8.0, 1.0, 1.0, 1.0, 1.0), float32_s).slowdown == pytest.approx(sqrt(2))
    assert Trial((1.0, 1.0, 1.0, 1.0, inf), float32_s).slowdown == inf


def test_the_shortest_time_of_all_trials_is_said() -> None:
    trials = [Trial((1.0, 4.0, 9.0, 1.0, 1.0), (2.0,) * 5), Trial((2.0, 3.0, 9.0, 1.0, inf), (1.0,) * 5)]
    assert shortest(trials) == Trial((1.0, 3.0, 9.0, 1.0, 1.0), (1.0,) * 5)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])  # the second has its experts transposed
@pytest.mark.parametrize("options", [WeightOptions(), WeightOptions(form="dense"), WeightOptions(is_sliced=True)])
def test_products_of_the_models_own_sizes_are_timed_in_both_types(family: str, options: WeightOptions) -> None:
    model = random_model(family, dtype=torch.bfloat16)
    trials = time_types(model, torch.bfloat16, options)
    assert len(trials) == 2
    for trial in trials:
        assert len(trial.half_s) == len(trial.float32_s) == len(ROWS)
        assert all(0 < time_s < 60 for time_s in (*trial.half_s, *trial.float32_s))


def test_most_weights_of_a_mixture_are_in_what_its_experts_project_up_and_down_by() -> None:
    model = random_model("mixtral")
    config = model.config
    width, inner = config.hidden_size, config.intermediate_size
    num_experts = config.num_hidden_layers * config.num_local_experts
    assert largest_shapes(model) == {(2 * inner, width): num_experts, (width, inner): num_experts}
    num_weights = sum(prod(shape) * number for shape, number in largest_shapes(model).items())
    assert num_weights <= sum(parameter.numel() for parameter in model.parameters())


class _Lacking(DenseMatrix):
    """A matrix of a CPU that has no products in bfloat16, and says so as torch does."""

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype is torch.bfloat16:
            raise RuntimeError("could not create a primitive descriptor for the matmul primitive")
        return super().__call__(x)


def test_products_that_raise_are_endlessly_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    forms: dict[torch.dtype, MatrixForm] = {torch.bfloat16: _Lacking, torch.float32: DenseMatrix}
    monkeypatch.setattr(type_trials, "form_of_weights", lambda dtype, *_: forms[dtype])
    (trial,) = time_types(random_model("mixtral"), torch.bfloat16, WeightOptions(), num_trials=1)
    assert trial.half_s == (inf,) * len(ROWS)
    assert trial.slowdown == inf
    assert max(trial.float32_s) < inf
