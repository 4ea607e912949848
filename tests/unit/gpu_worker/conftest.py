"""One thread and no gradients for all worker tests."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def engine_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
