"""What moving caches does to predictions is measured on the worker's own cache."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from gpu_worker.cache.compressed import Int8
from gpu_worker.model.loader import LoadedModel, adopt_model
from scripts.engine.offload_quality import Difference, read_all
from scripts.engine.quality import BLOCK_SIZE
from tests.support.models.families import VOCAB_SIZE, random_model


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


@pytest.fixture
def loaded() -> LoadedModel:
    return adopt_model(random_model("mixtral"), name="mixtral")


@pytest.fixture
def windows() -> Tensor:
    torch.manual_seed(0)
    return torch.randint(3, VOCAB_SIZE, (3, 40))


def test_a_cache_that_is_moved_as_it_was_computed_changes_nothing(loaded: LoadedModel, windows: Tensor) -> None:
    stayed = read_all(loaded, windows, 2, None, num_moves=0)
    moved = read_all(loaded, windows, 2, None, num_moves=2)
    assert torch.equal(stayed.logits, moved.logits)
    found = Difference.between(stayed, moved)
    assert (found.largest, found.agreement) == (0.0, 1.0)
    assert moved.block_bytes[0] == moved.block_bytes[1]


def test_int8_saves_most_of_the_bytes_and_changes_logits_a_little_on_average(
    loaded: LoadedModel, windows: Tensor
) -> None:
    stayed = read_all(loaded, windows, 2, None, num_moves=0)
    moved = read_all(loaded, windows, 2, Int8(BLOCK_SIZE), num_moves=1)
    found = Difference.between(stayed, moved)
    assert 0 < found.mean < 0.2 * found.spread  # the largest may be that of a token whose experts are others now
    assert found.agreement > 0.8
    on_device, off_device = moved.block_bytes
    assert 0.24 < off_device / on_device < 0.27


def test_the_second_half_of_each_window_is_judged(loaded: LoadedModel, windows: Tensor) -> None:
    stayed = read_all(loaded, windows, 2, None, num_moves=0)
    assert stayed.logits.shape == (3, 19, VOCAB_SIZE)
    reference = random_model("mixtral")(windows).logits[:, 20:-1]
    torch.testing.assert_close(stayed.logits, reference, rtol=1e-3, atol=1e-4)
