"""The books of a QLLM service's memory, as GetLoads tells them. Knows nothing of what they are read for."""

from collections.abc import Mapping
from dataclasses import dataclass

from qllm.client.async_client import Loads


@dataclass(frozen=True, slots=True)
class Books:
    """Who holds a service's memory at a moment, and what was moved since its worker connected.

    Attributes:
        memory: The fields of admin.proto's MemoryLoad, by name: bytes by owner, and counters.
        num_blocks: Cache blocks on the device.
        num_free_blocks: Those that nobody holds, whether or not they keep a prefix for later.
        is_idle: Whether no request runs or waits.
        problems: What a check of the books found; None if none was asked for.
    """

    memory: Mapping[str, float]
    num_blocks: int
    num_free_blocks: int
    is_idle: bool
    problems: tuple[str, ...] | None = None

    @classmethod
    def of(cls, loads: Loads) -> "Books":
        """Reads an answer to GetLoads."""
        memory = {field.name: getattr(loads.memory, field.name) for field in loads.memory.DESCRIPTOR.fields}
        classes = (loads.latency_sensitive, loads.best_effort)
        return cls(
            memory=memory,
            num_blocks=loads.total_blocks,
            num_free_blocks=loads.free_blocks,
            is_idle=not any(one.queued_prefill + one.queued_decode + one.running + one.offloaded for one in classes),
            problems=tuple(loads.check.problems) if loads.HasField("check") else None,
        )

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing runs or waits, and nobody holds a block but prefixes and sessions."""
        return self.is_idle and self.num_held_blocks == 0

    @property
    def num_held_blocks(self) -> int:
        """Blocks that are neither free nor kept as prefixes or for sessions: once nothing runs, they have leaked."""
        block_bytes = self.memory["total_bytes"] / self.num_blocks if self.num_blocks else 0.0
        kept_bytes = self.memory["prefix_bytes"] + self.memory["session_bytes"]
        if not block_bytes:
            return self.num_blocks - self.num_free_blocks
        held_bytes = self.memory["total_bytes"] - self.memory["free_bytes"] - kept_bytes
        return round(held_bytes / block_bytes)

    def since(self, before: "Books") -> dict[str, float]:
        """Returns by how much each counter of `memory` grew."""
        return {name: value - before.memory[name] for name, value in self.memory.items() if is_counter(name)}


def is_counter(name: str) -> bool:
    """Whether a field of MemoryLoad only grows."""
    return name.endswith("_ns") or (name.startswith("num_") and name != "num_kept_sessions")
