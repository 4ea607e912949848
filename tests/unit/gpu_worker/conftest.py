"""One thread and no gradients for all worker tests, and the devices of those that concern any."""

from collections.abc import Iterator

import pytest
import torch

from gpu_worker.attention import stage as attention_stage


@pytest.fixture(autouse=True)
def engine_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where tests run that concern any device: here, and with `-m gpu` on CUDA."""
    return str(request.param)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a part of every two queries of a prompt, and of every single query."""
    monkeypatch.setattr(attention_stage, "_PART_WORK", 1)
    monkeypatch.setattr(attention_stage, "_LEAST_QUERIES", 2)
