"""What is done differently on a device than on the host: bringing small tensors there without waiting.

A copy from ordinary memory makes the host wait for all that the device has to do before it. Copies from page-locked memory
take their turn like any other work.
"""

import torch
from torch import Tensor

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
