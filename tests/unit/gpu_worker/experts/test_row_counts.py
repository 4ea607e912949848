"""Products run with as many rows as they are fastest with, and give what the rows that there are give."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from gpu_worker.experts import row_counts
from gpu_worker.experts.matrices import PackedMatrix
from gpu_worker.experts.row_counts import choose_row_counts, fit_row_counts


def test_each_number_of_rows_is_run_with_the_fastest_that_is_no_smaller() -> None:
    assert choose_row_counts([0, 452, 527, 369, 330, 335, 327, 427, 466]) == (0, 6, 6, 6, 4, 5, 6, 7, 8)


def test_what_saves_next_to_nothing_is_not_filled_up() -> None:
    assert choose_row_counts([0, 100, 99, 98, 97]) == (0, 1, 2, 3, 4)


def test_what_saves_in_one_trial_only_is_not_filled_up() -> None:
    assert choose_row_counts([0, 100, 50, 90], [0, 100, 99, 60]) == (0, 1, 2, 3)
    assert choose_row_counts([0, 100, 50, 90], [0, 100, 60, 60]) == (0, 2, 2, 3)


@pytest.mark.parametrize("shape", [(1, 6), (3, 6), (1, 2, 6), (1, 9, 6), (0, 6)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_filling_up_changes_no_result(shape: tuple[int, ...], has_bias: bool) -> None:
    random = torch.Generator().manual_seed(0)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=random)

    weight, bias, x = draw(5, 6), draw(5) if has_bias else None, draw(*shape)
    matrix = PackedMatrix(weight, bias)
    matrix.row_counts = (0, 4, 4, 8, 4)
    torch.testing.assert_close(matrix(x), linear(x, weight, bias))


def test_all_matrices_of_a_model_go_by_those_that_most_bytes_are_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_counts, "_LEAST_BYTES", 1)
    matrices = [PackedMatrix(torch.randn(shape), None) for shape in ((64, 32), (64, 32), (8, 32))]
    num_threads = torch.get_num_threads()
    counts = fit_row_counts(matrices)
    assert torch.get_num_threads() == num_threads
    assert len(counts) == 9
    assert all(count >= number for number, count in enumerate(counts))
    assert all(matrix.row_counts == counts for matrix in matrices)
    assert fit_row_counts([]) == ()


def test_a_model_that_caches_hold_runs_its_rows_as_they_come() -> None:
    matrix = PackedMatrix(torch.randn(64, 32), None)
    assert fit_row_counts([matrix]) == matrix.row_counts == ()
