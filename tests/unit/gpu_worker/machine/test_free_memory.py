"""What is free is what machine and control group leave."""

from pathlib import Path

import pytest
import torch

from gpu_worker.machine import control_group, free_memory
from gpu_worker.machine.free_memory import free_bytes_of, free_bytes_of_host


@pytest.mark.parametrize(("of_group", "free"), [(None, 4096), (9999, 4096), (100, 100)])
def test_free_memory_is_what_machine_and_group_leave(
    of_group: int | None, free: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4 kB\n")
    monkeypatch.setattr(free_memory, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(control_group, "free_memory_bytes", lambda: of_group)
    assert free_bytes_of_host() == free
    assert free_bytes_of(torch.device("cpu")) == free


@pytest.mark.gpu
def test_a_device_says_what_is_free_in_its_own_memory() -> None:
    assert 0 < free_bytes_of(torch.device("cuda")) <= torch.cuda.get_device_properties(0).total_memory
