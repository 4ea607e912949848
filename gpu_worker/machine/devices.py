"""What is done differently on a device than on the host: copies that nobody waits for, and errors that may break it.

A copy from ordinary memory makes the host wait for all that the device has to do before it. Copies from page-locked
memory take their turn like any other work.

A kernel that refuses is no matter where there is another way. One that went astray (an illegal memory access) leaves a
device that fails every later call of this process.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gpu_worker.errors import DeviceLost, one_line
from gpu_worker.machine.host_memory import HostMemory

_ON_THEIR_WAY = HostMemory("indices")


def is_host(device: torch.device) -> bool:
    """Whether a device is the CPU, whose work is done when a call returns."""
    return device.type == "cpu"


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on a device, without waiting for the copy; itself where it is there already."""
    if is_host(device):
        return tensor
    return _ON_THEIR_WAY.empty(tensor.shape, tensor.dtype).copy_(tensor).to(device, non_blocking=True)


def check_alive(
    device: torch.device, error: BaseException, synchronize: Callable[[torch.device], None] = torch.cuda.synchronize
) -> None:
    """Waits for a device after an error, to see whether another way can be gone; on a host nothing needs to be seen.

    Args:
        device: The device.
        error: What was raised.
        synchronize: Waits for all that the device has to do.

    Raises:
        DeviceLost: It fails whatever it is asked from now on.
    """
    if device.type != "cuda":
        return
    try:
        synchronize(device)
    except RuntimeError as lost:
        raise DeviceLost(f"{device} can be used no more: {one_line(lost)} (after {one_line(error)})") from error
