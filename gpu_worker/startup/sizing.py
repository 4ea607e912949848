"""Decides how much memory the cache takes, and how many blocks that is. It knows bytes, and neither models nor devices.

free memory   |cache . . . . . . . . . .|rest: what steps compute with, other processes|
"""

from dataclasses import dataclass

from qllm.settings import SettingRefused

from gpu_worker.memory_size import MemorySize

MOST_SEQUENCES = 256  # what the scheduler admits at most if it is told nothing else
_MAX_BLOCKS = 1 << 24
_CUDA_SHARE = MemorySize(share=0.8)
_CPU_SHARE = MemorySize(share=0.25)  # others run on the host too, and every GiB takes a second to fill with zeros


@dataclass(frozen=True, slots=True)
class Room:
    """Memory that caches are put into.

    Attributes:
        free_bytes: What is free for this process.
        is_host: Whether it is the host's, rather than a device's own.
    """

    free_bytes: int
    is_host: bool

    def cache_bytes(self, asked: MemorySize | None, most_bytes: int) -> int:
        """Returns the bytes that the cache is to take.

        Args:
            asked: What was asked for; None for nothing.
            most_bytes: More than this a host's cache has no use for; counts where nothing was asked for.

        Raises:
            SettingRefused: It is more than is free.
        """
        if asked is None:
            return min(_CPU_SHARE.of(self.free_bytes), most_bytes) if self.is_host else _CUDA_SHARE.of(self.free_bytes)
        if (wanted := asked.of(self.free_bytes)) > self.free_bytes:
            raise SettingRefused(f"--kv-memory: got {wanted} bytes, allowed are the {self.free_bytes} that are free")
        return wanted


def blocks_of(num_tokens: int, block_size: int) -> int:
    """Returns how many blocks a text fills."""
    return -(-num_tokens // block_size)


def fit_blocks(memory_bytes: int, block_bytes: int) -> int:
    """Returns how many blocks go into some memory."""
    return min(memory_bytes // block_bytes, _MAX_BLOCKS)
