"""The metrics of memory: who holds how much of the cache, what was found in it, and what was moved."""

from collections.abc import Mapping

from scheduler_svc.generation import Loads
from scheduler_svc.metrics.load_metric import BE, LS, by_label, one

_OWNER, _TIER = "owner", "tier"


def _owners(loads: Loads) -> Mapping[str, float]:
    memory = loads.memory
    return {
        LS: memory.latency_sensitive_bytes,
        BE: memory.best_effort_bytes,
        "prefixes": memory.prefix_bytes,
        "sessions": memory.session_bytes,
        "free": memory.free_bytes,
    }


MEMORY_GAUGES = (
    by_label(
        "kv_cache_bytes",
        "Bytes of the K/V cache by owner, which together are all of it: requests of class ls and be, prefixes that "
        "nobody holds, sessions between two turns, and what is free.",
        _OWNER,
        _owners,
    ),
    one(
        "kv_cache_fragmentation_perc",
        "Part of the free cache that lies outside of its longest run; 1 is all of it.",
        lambda loads: loads.memory.fragmentation,
    ),
    one(
        "sequence_state_bytes",
        "Bytes that requests keep beside the K/V cache, such as states of a recurrence.",
        lambda loads: loads.memory.state_bytes,
    ),
    one(
        "suspended_bytes",
        "Bytes that iterations hold which stand inside the model.",
        lambda loads: loads.memory.suspended_bytes,
    ),
    one("suspended_tokens", "Tokens in those iterations.", lambda loads: loads.memory.suspended_tokens),
    by_label(
        "offloaded_bytes",
        "Bytes of caches that were moved off the device, by where they lie.",
        _TIER,
        lambda loads: {"host": loads.memory.host_bytes, "disk": loads.memory.disk_bytes},
    ),
    by_label(
        "offload_room_bytes",
        "Bytes that such caches may fill, by where they lie.",
        _TIER,
        lambda loads: {"host": loads.memory.host_total_bytes, "disk": loads.memory.disk_total_bytes},
    ),
    one(
        "num_kept_sessions",
        "Sessions whose cache is kept for their next turn.",
        lambda loads: loads.memory.num_kept_sessions,
    ),
)
MEMORY_COUNTERS = (
    one(
        "prefix_cache_queries_total",
        "Prompt tokens that were looked for in the cache.",
        lambda loads: loads.memory.num_prompt_tokens,
    ),
    one(
        "prefix_cache_hits_total",
        "Prompt tokens that were found there, and so not computed.",
        lambda loads: loads.memory.num_cached_tokens,
    ),
    one("restores_total", "Times a request's cache was moved back.", lambda loads: loads.memory.num_restores),
    one(
        "drops_total",
        "Times a request's cache was given up, to be computed again.",
        lambda loads: loads.memory.num_drops,
    ),
    one(
        "recomputed_tokens_total",
        "Tokens that were computed once more because of that.",
        lambda loads: loads.memory.num_recomputed_tokens,
    ),
    one(
        "offloaded_blocks_total",
        "Cache blocks moved off the device.",
        lambda loads: loads.memory.num_offloaded_blocks,
    ),
    one(
        "offload_seconds_total",
        "Time that moving caches off the device kept the worker.",
        lambda loads: loads.memory.offload_ns / 1e9,
    ),
    one("restored_blocks_total", "Cache blocks moved back.", lambda loads: loads.memory.num_restored_blocks),
    one(
        "restore_seconds_total",
        "Time that moving caches back kept the worker.",
        lambda loads: loads.memory.restore_ns / 1e9,
    ),
    one(
        "session_hits_total",
        "Turns of sessions that found their cache kept for them.",
        lambda loads: loads.memory.num_session_hits,
    ),
    one(
        "session_misses_total",
        "Turns of sessions, after the first of each, that did not.",
        lambda loads: loads.memory.num_session_misses,
    ),
)
