"""How many blocks and states a worker has room for, by its settings, on its device and off it.

It asks how much memory is free; what to make of that is decided in `sizing`.
"""

import logging
from dataclasses import dataclass, replace

import torch

from gpu_worker.execution.ranks import Ranks
from gpu_worker.machine.devices import is_host
from gpu_worker.machine.free_memory import free_bytes_of
from gpu_worker.model.loader import ModelFacts
from gpu_worker.settings import WorkerConfig
from gpu_worker.startup.sizing import MOST_SEQUENCES, Kept, Limits, Room, blocks_in, blocks_of, fit, fit_states

_log = logging.getLogger(__name__)

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many blocks and states there is room for, on the device and off it, and the bytes of a block off it."""

    num_blocks: int
    num_states: int
    num_host_blocks: int
    num_disk_blocks: int
    host_block_bytes: int

    def least(self, ranks: Ranks) -> "Capacity":
        """As many as all ranks have room for; a block of this one's slice is as large as it is."""
        return replace(
            self,
            num_blocks=ranks.least(self.num_blocks),
            num_states=ranks.least(self.num_states),
            num_host_blocks=ranks.least(self.num_host_blocks),
            num_disk_blocks=ranks.least(self.num_disk_blocks),
        )


def capacity_of(config: WorkerConfig, facts: ModelFacts, kept: Kept) -> Capacity:
    """Returns how much there is room for; raises SettingRefused if the device has none."""
    limits = _limits(config, facts, kept)
    off_device = (config.host_kv_gib, config.offload_disk_gib)
    num_host_blocks, num_disk_blocks = (blocks_in(int(gib * _GIB), kept.away_block_bytes) for gib in off_device)
    return Capacity(limits.num_blocks, limits.num_states, num_host_blocks, num_disk_blocks, kept.away_block_bytes)


def _limits(config: WorkerConfig, facts: ModelFacts, kept: Kept) -> Limits:
    """Returns how many blocks and states the device has room for; raises SettingRefused if that is none."""
    room, asked = _room(config, facts.device), config.kv_memory_size
    if config.num_blocks:
        num_bytes = config.num_blocks * kept.block_bytes
        room.check("--num-blocks", f"{config.num_blocks}, which are {num_bytes} bytes", num_bytes)
        left_bytes = room.left_bytes(asked, config.num_blocks * kept.most_block_bytes)
        limits = fit_states(config.num_blocks, left_bytes, kept)
    else:
        longest = blocks_of(facts.max_model_len, config.block_size)
        cache_bytes = room.cache_bytes(asked, MOST_SEQUENCES * kept.most_sequence_bytes(longest))
        limits = fit(cache_bytes, kept, facts.max_model_len, config.block_size)
    if limits.num_blocks * config.block_size < facts.max_model_len:
        _log.warning(
            "texts of at most %d tokens, not %d: the cache holds no more (--kv-memory, --num-blocks)",
            limits.num_blocks * config.block_size,
            facts.max_model_len,
        )
    return limits


def report(kept: Kept, capacity: Capacity) -> None:
    """Logs how much there is room for."""
    _log.info(
        "cache blocks=%d host_blocks=%d disk_blocks=%d block_bytes=%d host_block_bytes=%d",
        capacity.num_blocks,
        capacity.num_host_blocks,
        capacity.num_disk_blocks,
        kept.block_bytes,
        capacity.host_block_bytes,
    )
    if kept.has_states:
        _log.info(
            "states most_sequences=%d bytes_each=%d of_block_bytes_outside_of_blocks=%d",
            capacity.num_states,
            kept.state_bytes,
            kept.grown_bytes,
        )


def bytes_of_caches(config: WorkerConfig, device: str) -> int:
    """What caches of all ranks will take of a host's memory, as far as it is known before there is a model."""
    offloaded = int(config.host_kv_gib * _GIB)
    room = _room(config, device)
    here = room.cache_bytes(config.kv_memory_size, room.free_bytes) if room.is_host and not config.num_blocks else 0
    return (offloaded + here) * config.num_ranks


def _room(config: WorkerConfig, device: str) -> Room:
    """What is free for caches; the ranks of one host share it, and each has a device of its own."""
    where = torch.device(device)
    free_bytes = free_bytes_of(where)
    if not is_host(where):
        return Room(free_bytes, is_host=False)
    return Room(free_bytes // config.num_ranks, is_host=True, offloaded_bytes=int(config.host_kv_gib * _GIB))
