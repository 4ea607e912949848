"""Admission by memory: gives sequences the blocks that their next tokens need; moves caches to host memory and back.

Owns the device's block ids and counts the host's blocks. Decides nothing about whom to move: callers name the victim.
Emits the commands that carry it out; the worker runs commands in order, so a block may be used again at once.
"""

from collections.abc import Callable

from scheduler_svc.core.cache.block_pool import BlockPool
from scheduler_svc.core.state.commands import Command, DropSequence, OffloadSequence, RestoreSequence
from scheduler_svc.core.state.ids import BlockId
from scheduler_svc.core.state.results import WorkerModel
from scheduler_svc.core.state.sequence import Sequence


class Memory:
    """Device blocks and host blocks of one worker."""

    def __init__(self, model: WorkerModel, emit: Callable[[Command], None]) -> None:
        self.pool = BlockPool(model.num_blocks)
        self.num_free_host_blocks = model.num_host_blocks
        self.num_offloads = 0
        self.num_offloaded = 0  # sequences whose cache is in host memory now
        self._block_size = model.block_size
        self._emit = emit

    def num_missing(self, sequence: Sequence, num_tokens: int) -> int:
        """Counts the blocks that the sequence lacks for its next `num_tokens` tokens."""
        missing = -(-(sequence.num_computed_tokens + num_tokens) // self._block_size) - len(sequence.block_ids)
        return missing if missing > 0 else 0

    def fits(self, sequence: Sequence, num_tokens: int) -> bool:
        """Whether the blocks for its next `num_tokens` tokens are free."""
        return self.num_missing(sequence, num_tokens) <= self.pool.num_free

    def grow(self, sequence: Sequence, num_tokens: int) -> tuple[BlockId, ...]:
        """Gives it the blocks for its next `num_tokens` tokens, which must fit; returns the new ones."""
        num_missing = self.num_missing(sequence, num_tokens)
        if not num_missing:
            return ()
        after = sequence.block_ids[-1] if sequence.block_ids else None
        added = self.pool.allocate(num_missing, after)
        sequence.block_ids += added
        return tuple(added)

    def can_offload(self, sequence: Sequence) -> bool:
        """Whether it holds blocks and the host has room for them."""
        return 0 < len(sequence.block_ids) <= self.num_free_host_blocks

    def offload(self, sequence: Sequence) -> None:
        """Moves its cache to host memory and frees its blocks; `can_offload` must hold."""
        sequence.num_host_blocks = len(sequence.block_ids)
        self.num_free_host_blocks -= sequence.num_host_blocks
        self.num_offloads += 1
        self.num_offloaded += 1
        self._emit(OffloadSequence(sequence.seq_id))  # first: whoever gets the blocks writes to them by a later command
        self._free_blocks(sequence)

    def restore(self, sequence: Sequence) -> None:
        """Moves an offloaded sequence's cache back; `num_host_blocks` of the device's must be free."""
        sequence.block_ids = self.pool.allocate(sequence.num_host_blocks)
        self._emit(RestoreSequence(sequence.seq_id, tuple(sequence.block_ids)))
        self._free_host_blocks(sequence)

    def forget(self, sequence: Sequence) -> None:
        """Gives up all that is kept of it, here and in the worker: it ended, or is to be computed again."""
        # Steps in flight may still write to its blocks. They run before the drop, and the blocks'
        # next owner begins behind it.
        if sequence.known_to_worker:
            self._emit(DropSequence(sequence.seq_id))
        sequence.known_to_worker = False
        sequence.num_computed_tokens = 0
        self._free_host_blocks(sequence)
        self._free_blocks(sequence)

    def _free_host_blocks(self, sequence: Sequence) -> None:
        self.num_free_host_blocks += sequence.num_host_blocks
        self.num_offloaded -= sequence.is_offloaded
        sequence.num_host_blocks = 0

    def _free_blocks(self, sequence: Sequence) -> None:
        self.pool.free(sequence.block_ids)
        sequence.block_ids = []
