"""Decides how much memory the cache takes, and for how many blocks and states that is enough.

    free memory   |cache . . . . . . . . . . . . . . . . . . . . .|rest: what steps compute with, other processes|
                  |blocks . . . . . . . . . .|state|copy|state|copy|

A sequence in an iteration has its state twice, as it was and as it becomes: so has what its layers keep outside of the
blocks for each token. It knows bytes, and neither models nor devices.
"""

from dataclasses import dataclass

from qllm.settings import SettingRefused

from gpu_worker.memory_size import MemorySize

MOST_SEQUENCES = 256  # what the scheduler admits at most if it is told nothing else
_USUAL_TOKENS = 1024  # of a text, for which each sequence that has a state is to find blocks
_MAX_BLOCKS = 1 << 24
_CUDA_SHARE = MemorySize(share=0.8)
_CPU_SHARE = MemorySize(share=0.25)  # others run on the host too, and every GiB takes a second to fill with zeros


@dataclass(frozen=True, slots=True)
class Kept:
    """What a model keeps of sequences on the device.

    Attributes:
        row_bytes: Of one block in all layers' storage.
        away_row_bytes: The same off the device.
        grown_bytes: What layers keep outside of the blocks, for each block's worth of tokens.
        state_bytes: What a sequence keeps besides, however long it is.
    """

    row_bytes: int
    away_row_bytes: int
    grown_bytes: int = 0
    state_bytes: int = 0

    @property
    def block_bytes(self) -> int:
        """Bytes of one block, and of what layers keep besides for as many tokens."""
        return self.row_bytes + self.grown_bytes

    @property
    def away_block_bytes(self) -> int:
        """Bytes of one block off the device, likewise."""
        return self.away_row_bytes + self.grown_bytes

    @property
    def has_states(self) -> bool:
        """Whether a sequence keeps anything outside of the blocks."""
        return self.state_bytes + self.grown_bytes > 0

    @property
    def most_block_bytes(self) -> int:
        """The same while its sequence is in an iteration."""
        return self.block_bytes + self.grown_bytes

    @property
    def most_state_bytes(self) -> int:
        """Bytes of a state while its sequence is in an iteration."""
        return 2 * self.state_bytes

    def most_sequence_bytes(self, num_blocks: int) -> int:
        """Bytes of a sequence of so many blocks while it is in an iteration."""
        return self.most_state_bytes + num_blocks * self.most_block_bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """How many blocks there are, and how many sequences may keep a state at once: 0 for any number."""

    num_blocks: int
    num_states: int


@dataclass(frozen=True, slots=True)
class Room:
    """Memory that caches are put into.

    Attributes:
        free_bytes: What is free for this process.
        is_host: Whether it is the host's, rather than a device's own.
        offloaded_bytes: What caches that give way will take of it: nothing of a device's own.
    """

    free_bytes: int
    is_host: bool
    offloaded_bytes: int = 0

    def cache_bytes(self, asked: MemorySize | None, most_bytes: int) -> int:
        """Returns the bytes that the cache is to take.

        Args:
            asked: What was asked for; None for nothing.
            most_bytes: More than this a host's cache has no use for; counts where nothing was asked for.

        Raises:
            SettingRefused: It is more than is free beside what is offloaded.
        """
        if asked is None:
            return min(self.left_bytes(None), most_bytes) if self.is_host else self.left_bytes(None)
        wanted_bytes = asked.of(self.free_bytes)
        self.check("--kv-memory", f"{wanted_bytes} bytes", wanted_bytes)
        return wanted_bytes

    def check(self, option: str, given: str, wanted_bytes: int) -> None:
        """Checks what was asked for; raises SettingRefused if it is more than is free beside what is offloaded.

        As much as is taken where nothing is asked for is always allowed: a small host's memory may be less than what
        is offloaded at most.
        """
        allowed_bytes = max(self.free_bytes - self.offloaded_bytes, self.left_bytes(None))
        if wanted_bytes > allowed_bytes:
            beside = f", of {self.free_bytes}, beside --host-kv-gib" if self.offloaded_bytes else ""
            raise SettingRefused(f"{option}: got {given}, allowed are the {allowed_bytes} that are free{beside}")

    def left_bytes(self, asked: MemorySize | None, taken_bytes: int = 0) -> int:
        """Returns what of the memory that was asked for is left once some is given away."""
        size = asked or (_CPU_SHARE if self.is_host else _CUDA_SHARE)
        return size.of(self.free_bytes, taken_bytes)


def blocks_of(num_tokens: int, block_size: int) -> int:
    """Returns how many blocks a text fills."""
    return -(-num_tokens // block_size)


def blocks_in(memory_bytes: int, block_bytes: int) -> int:
    """Returns how many blocks go into some memory."""
    return min(max(0, memory_bytes) // block_bytes, _MAX_BLOCKS)


def fit(cache_bytes: int, kept: Kept, max_model_len: int, block_size: int) -> Limits:
    """Divides a cache between states and blocks: for each sequence with a state, blocks for a usual text.

    Raises:
        SettingRefused: It is less than one block, and one state where there are states.
    """
    num_states = 0
    if kept.has_states:
        usual = blocks_of(min(max_model_len, _USUAL_TOKENS), block_size)
        num_states = _within(cache_bytes // kept.most_sequence_bytes(usual), MOST_SEQUENCES)
    num_blocks = blocks_in(cache_bytes - num_states * kept.most_state_bytes, kept.most_block_bytes)
    if num_blocks < 1:
        raise SettingRefused(
            f"--kv-memory: {cache_bytes} bytes are less than one block of {kept.block_bytes} bytes"
            + (f" and a state of {kept.state_bytes}, twice in an iteration" if kept.has_states else "")
        )
    return Limits(num_blocks, num_states)


def fit_states(num_blocks: int, left_bytes: int, kept: Kept) -> Limits:
    """Says how many states go beside a given number of blocks into what these leave: one at least."""
    if not kept.has_states:
        return Limits(num_blocks, 0)
    most = min(MOST_SEQUENCES, num_blocks)
    return Limits(num_blocks, _within(left_bytes // kept.most_state_bytes if kept.state_bytes else most, most))


def _within(number: int, most: int) -> int:
    return max(1, min(number, most))
