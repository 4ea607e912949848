"""How much memory is free: the host's, as machine and control group leave it, or a device's own."""

from pathlib import Path

import torch

from gpu_worker.machine import control_group
from gpu_worker.machine.devices import is_host

_MEMORY = Path("/proc/meminfo")


def free_bytes_of(device: torch.device) -> int:
    """Returns the bytes that are free where a device keeps its tensors."""
    if is_host(device):
        return free_bytes_of_host()
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return free_bytes


def free_bytes_of_host() -> int:
    """Returns the bytes that this process may still take, by the machine's memory and its control group's limit."""
    lines = _MEMORY.read_text().splitlines() if _MEMORY.is_file() else []
    available = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    of_group = control_group.free_memory_bytes()
    return min([*available, *([] if of_group is None else [of_group])], default=1 << 62)
