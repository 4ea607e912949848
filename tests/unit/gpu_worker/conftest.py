"""One thread and no gradients for all worker tests, and the devices of those that concern any."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def engine_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where tests run that concern any device: here, and with `-m gpu` on CUDA."""
    return str(request.param)
