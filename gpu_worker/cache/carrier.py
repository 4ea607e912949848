"""Copies cached rows to host memory and back, beside a device's other work.

device's stream  |. . . prefill . . .|  waits for the copy only when blocks that it reads are written to
side stream          |copy|            into page-locked memory; the host waits for neither

Where the system gives no page-locked memory, the host waits for the copy.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from gpu_worker.machine.devices import is_host
from gpu_worker.machine.host_memory import HostMemory

Read = Callable[[], tuple[Tensor, ...]]
"""Reads rows on the device, as views or gathered."""


class Carrier(Protocol):
    """Copies rows between a device and the host."""

    def take_out(self, reads: Sequence[Read], block_ids: Sequence[int]) -> list[tuple[Tensor, ...]]:
        """Copies what the reads give, which lies in the blocks, to host memory; the blocks may be reused at once."""

    def bring_back(self, rows: Tensor) -> Tensor:
        """Rows that were taken out, on the device."""

    def claim(self, block_ids: Sequence[int]) -> None:
        """Makes sure that whatever is done from now on finds the blocks free to be written to."""

    def wait(self) -> None:
        """Returns once all that was taken out is in host memory."""


class HostCarrier:
    """The carrier of a CPU, whose copies are done when they return."""

    def take_out(self, reads: Sequence[Read], block_ids: Sequence[int]) -> list[tuple[Tensor, ...]]:
        """Copies what the reads give."""
        return [tuple(rows.clone() for rows in read()) for read in reads]

    def bring_back(self, rows: Tensor) -> Tensor:
        """The rows themselves."""
        return rows

    def claim(self, block_ids: Sequence[int]) -> None:
        """Nothing: no copy is under way."""

    def wait(self) -> None:
        """Nothing, likewise."""


class SideStreamCarrier:
    """The carrier of a CUDA device.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._leaving: dict[int, torch.cuda.Event] = {}
        self._memory = HostMemory("offloaded rows")

    def take_out(self, reads: Sequence[Read], block_ids: Sequence[int]) -> list[tuple[Tensor, ...]]:
        """Copies on the side stream, after what the device has to do so far."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            taken = [tuple(copy_out(rows, self._memory) for rows in read()) for read in reads]
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        self._leaving.update(dict.fromkeys(block_ids, done))
        return taken

    def bring_back(self, rows: Tensor) -> Tensor:
        """Copies rows to the device, once they have left it, without waiting on the host."""
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return rows.to(self._device, non_blocking=True)

    def claim(self, block_ids: Sequence[int]) -> None:
        """Makes the device's stream wait for copies of the blocks that are under way."""
        for block_id in block_ids:
            if (done := self._leaving.pop(block_id, None)) is not None:
                torch.cuda.current_stream(self._device).wait_event(done)

    def wait(self) -> None:
        """Waits for the side stream, and for what that waits for: the device's work so far."""
        self._stream.synchronize()


def carrier_of(device: torch.device) -> Carrier:
    """The carrier that a device needs."""
    return HostCarrier() if is_host(device) else SideStreamCarrier(device)


def copy_out(rows: Tensor, memory: HostMemory) -> Tensor:
    """A copy in host memory, complete once the stream gets there; if the memory is not page-locked, at once."""
    copy = memory.empty(rows.shape, rows.dtype)
    return copy.copy_(rows, non_blocking=copy.is_pinned())
