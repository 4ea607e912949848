"""Who holds how much of the cache, and what was moved, in numbers that an operator reads."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from scheduler_svc.core.cache.memory import Memory
from scheduler_svc.core.counters import Counters
from scheduler_svc.core.state.results import WorkerModel
from scheduler_svc.core.state.sequence import RequestClass, Sequence, Tier


@dataclass(frozen=True, slots=True)
class MemoryLoad:
    """Bytes by owner now, and counters since the worker joined; fields as in admin.proto's MemoryLoad."""

    total_bytes: int = 0
    free_bytes: int = 0
    latency_sensitive_bytes: int = 0
    best_effort_bytes: int = 0
    prefix_bytes: int = 0
    session_bytes: int = 0
    state_bytes: int = 0
    suspended_bytes: int = 0
    suspended_tokens: int = 0
    host_bytes: int = 0
    host_total_bytes: int = 0
    disk_bytes: int = 0
    disk_total_bytes: int = 0
    fragmentation: float = 0.0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_offloads: int = 0
    num_restores: int = 0
    num_drops: int = 0
    num_recomputed_tokens: int = 0
    num_offloaded_blocks: int = 0
    offload_ns: int = 0
    num_restored_blocks: int = 0
    restore_ns: int = 0
    num_session_hits: int = 0
    num_session_misses: int = 0
    num_kept_sessions: int = 0


def read_load(
    model: WorkerModel, memory: Memory, live: Iterable[Sequence], kept: Iterable[Sequence], counters: Counters
) -> MemoryLoad:
    """Reads who holds how much, but for the counters of sessions.

    What several hold counts for the first of these: latency-sensitive work, best-effort work, sessions. Takes a time
    that grows with the sequences, and where blocks are shared with the blocks held, but for the last owner's.
    """
    live, kept = list(live), list(kept)
    classes = {each: [s for s in live if s.request_class is each] for each in RequestClass}
    owners = (classes[RequestClass.LATENCY_SENSITIVE], classes[RequestClass.BEST_EFFORT], kept)
    num_blocks = _blocks_by_owner(owners, memory.pool.num_held)
    in_tier = {tier: sum(s.num_host_blocks for s in (*live, *kept) if s.tier is tier) for tier in Tier}
    return MemoryLoad(
        total_bytes=model.num_blocks * model.block_bytes,
        free_bytes=(memory.pool.num_free - memory.pool.num_kept) * model.block_bytes,
        latency_sensitive_bytes=num_blocks[0] * model.block_bytes,
        best_effort_bytes=num_blocks[1] * model.block_bytes,
        session_bytes=num_blocks[2] * model.block_bytes,
        prefix_bytes=memory.pool.num_kept * model.block_bytes,
        state_bytes=memory.num_states * model.state_bytes,
        suspended_bytes=counters.suspended_bytes,
        suspended_tokens=counters.suspended_tokens,
        host_bytes=in_tier[Tier.HOST] * model.host_block_bytes,
        host_total_bytes=model.num_host_blocks * model.host_block_bytes,
        disk_bytes=in_tier[Tier.DISK] * model.host_block_bytes,
        disk_total_bytes=model.num_disk_blocks * model.host_block_bytes,
        fragmentation=memory.pool.fragmentation,
        num_offloaded_blocks=counters.num_offloaded_blocks,
        offload_ns=counters.offload_ns,
        num_restored_blocks=counters.num_restored_blocks,
        restore_ns=counters.restore_ns,
        num_kept_sessions=len(kept),
        **asdict(memory.counters),
    )


def _blocks_by_owner(owners: tuple[list[Sequence], ...], num_held: int) -> list[int]:
    """Counts the blocks of each owner that no earlier one holds, of `num_held` that they all hold together."""
    in_tables = [sum(len(sequence.block_ids) for sequence in of_one) for of_one in owners]
    if sum(in_tables) == num_held:  # none is shared
        return in_tables
    seen: set[int] = set()
    num_blocks, num_left = [], num_held
    for number, of_one in enumerate(owners):
        if not any(in_tables[number + 1 :]):
            num_blocks.append(num_left)  # nobody behind it holds any: what is left is all its own
        else:
            num_before = len(seen)
            for sequence in of_one:
                seen.update(sequence.block_ids)
            num_blocks.append(len(seen) - num_before)
        num_left -= num_blocks[-1]
    return num_blocks
