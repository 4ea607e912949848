"""Who holds how much of the cache, and what was moved, in numbers that an operator reads."""

from dataclasses import dataclass


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
