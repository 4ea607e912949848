"""Where a system locks no memory, rows leave a device for ordinary memory, and the log says so once."""

from typing import Any

import pytest
import torch
from torch import Tensor

from gpu_worker.cache.carrier import copy_out
from gpu_worker.machine.host_memory import HostMemory


class System:
    """Makes tensors, and locks so many of them."""

    def __init__(self, num_locked: int) -> None:
        self.num_left = num_locked
        self.asked: list[bool] = []

    def new_tensor(self, shape: Any, *, dtype: torch.dtype, pin_memory: bool = False) -> Tensor:
        self.asked.append(pin_memory)
        if pin_memory:
            self.num_left -= 1
            if self.num_left < 0:
                raise RuntimeError("CUDA error: OS call failed or operation not supported on this OS\nCompile with ...")
        return torch.empty(shape, dtype=dtype)


def test_memory_is_locked_as_long_as_the_system_does_it() -> None:
    system = System(3)
    memory = HostMemory("rows", system.new_tensor)
    assert [memory.empty((2, 3), torch.int32).shape for _ in range(3)] == [(2, 3)] * 3
    assert system.asked == [True] * 3


def test_once_refused_memory_is_ordinary_and_the_log_says_so_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    system = System(1)
    memory = HostMemory("rows", system.new_tensor)
    assert [memory.empty((4,), torch.float16).dtype for _ in range(4)] == [torch.float16] * 4
    assert system.asked == [True, True, False, False, False]
    (record,) = caplog.records
    assert "\n" not in record.getMessage()
    assert "rows refused" in record.getMessage()
    assert "OS call failed" in record.getMessage()


def test_rows_come_out_whole_where_this_torch_locks_none(device: str) -> None:
    rows = torch.arange(24, device=device).reshape(2, 3, 4).transpose(0, 1)  # as rows of pages lie
    memory = HostMemory("rows", System(0).new_tensor)
    assert copy_out(rows, memory).equal(rows.cpu())
