"""Shows who holds how much of the cache, and what it saved and cost, as tables. Knows no calls."""

from collections.abc import Iterator
from typing import TypeAlias

from qllm.client.cli.numbers import share, share_of
from qllm.v1 import admin_pb2
from rich.table import Table

Row: TypeAlias = tuple[str, int, int]


def owners_table(memory: admin_pb2.MemoryLoad) -> Table:
    """Returns bytes by owner, each with its share: of the device's blocks, or of the tier that it lies on."""
    table = Table("", "MiB", "share", title="Memory")
    for name, num_bytes, total_bytes in _owners(memory):
        table.add_row(name, f"{num_bytes / 2**20:,.1f}", share(num_bytes, total_bytes))
    return table


def _owners(memory: admin_pb2.MemoryLoad) -> Iterator[Row]:
    """Yields name, bytes, and what they are a share of."""
    total = memory.total_bytes
    yield "latency-sensitive requests", memory.latency_sensitive_bytes, total
    yield "best-effort requests", memory.best_effort_bytes, total
    yield "prefixes that nobody holds", memory.prefix_bytes, total
    yield "sessions between two turns", memory.session_bytes, total
    yield "free", memory.free_bytes, total
    yield "cache on the device", total, total
    yield "beside it: states of sequences", memory.state_bytes, total
    yield "beside it: suspended iterations", memory.suspended_bytes, total
    yield "offloaded to host memory", memory.host_bytes, memory.host_total_bytes
    yield "offloaded to disk", memory.disk_bytes, memory.disk_total_bytes


def moves_table(loads: admin_pb2.GetLoadsResponse, block_size: int) -> Table:
    """Returns what the cache saved, and what moving and suspending cost.

    Args:
        loads: The loads.
        block_size: Tokens in one block; 0: not known.
    """
    memory = loads.memory
    table = Table(title="Cache", show_header=False)
    table.add_row("prompt tokens found", share_of(memory.num_cached_tokens, memory.num_prompt_tokens))
    table.add_row("offloaded", _moved(memory.num_offloads, memory.num_offloaded_blocks, memory.offload_ns))
    table.add_row("restored", _moved(memory.num_restores, memory.num_restored_blocks, memory.restore_ns))
    table.add_row("given up", f"{memory.num_drops:,} caches, {memory.num_recomputed_tokens:,} tokens computed again")
    table.add_row("fragmentation", f"{100 * memory.fragmentation:.1f} % of what is free")
    table.add_row("suspended, per token", _suspension_cost(loads, block_size))
    num_turns = memory.num_session_hits + memory.num_session_misses
    table.add_row("sessions' turns found", share_of(memory.num_session_hits, num_turns))
    table.add_row("sessions kept now", f"{memory.num_kept_sessions:,}")
    return table


def _suspension_cost(loads: admin_pb2.GetLoadsResponse, block_size: int) -> str:
    """Says what a token costs that stands inside the model, beside what its keys and values take."""
    memory = loads.memory
    if not memory.suspended_tokens:
        return "nothing is suspended"
    per_token = memory.suspended_bytes / memory.suspended_tokens
    cached_tokens = loads.total_blocks * block_size
    if not cached_tokens or not memory.total_bytes:
        return f"{per_token:,.0f} bytes"
    kv_per_token = memory.total_bytes / cached_tokens
    return f"{per_token:,.0f} bytes, {per_token / kv_per_token:.2f} of the {kv_per_token:,.0f} of its K/V"


def _moved(num_caches: int, num_blocks: int, duration_ns: int) -> str:
    return f"{num_caches:,} caches, {num_blocks:,} blocks, {duration_ns / 1e6:,.1f} ms"
