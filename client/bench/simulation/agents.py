"""Simulated programs that ask, let a tool run and ask again; and what they met under each time to live. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qllm.client.bench.load.memory.programs import Tool
from qllm.settings import plain

BY_RULE = "by the rule"
_SAME_PERCENT = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentTraffic:
    """Programs that come at random times for a while.

    Attributes:
        rate_per_s: How many come in a second (Poisson).
        seconds: For how long they come; they are served to the end.
        num_turns: Turns of each, or their mean where they are spread.
    """

    rate_per_s: float
    seconds: float
    num_turns: int
    turn_spread: str
    num_prompt_tokens: int
    num_tool_tokens: int
    num_output_tokens: int
    tools: tuple[Tool, ...]
    is_latency_sensitive: bool
    seed: int

    def job(self) -> dict[str, object]:
        """Returns the programs as the simulator's job describes them."""
        return {
            "num_programs": max(1, round(self.rate_per_s * self.seconds)),
            "rate_per_s": self.rate_per_s,
            "num_turns": self.num_turns,
            "turn_spread": self.turn_spread,
            "num_prompt_tokens": self.num_prompt_tokens,
            "num_tool_tokens": self.num_tool_tokens,
            "num_output_tokens": self.num_output_tokens,
            "tools": [[tool.name, round(tool.mean_s, 6), tool.sigma] for tool in self.tools],
            "class": "ls" if self.is_latency_sensitive else "be",
            "seed": self.seed,
        }

    def describe(self) -> str:
        """Returns one line."""
        tools = ", ".join(f"{tool.name} {tool.mean_s:.3g} s" for tool in self.tools)
        return (
            f"{self.rate_per_s:g} programs/s for {self.seconds:g} s of {self.num_turns} turns ({self.turn_spread}), "
            f"prompts of {self.num_prompt_tokens} tokens and {self.num_tool_tokens} more from each tool, answers of "
            f"{self.num_output_tokens}; tools take in the mean: {tools}"
        )


@dataclass(frozen=True, slots=True)
class AgentResult:
    """What the programs met under one time to live, in virtual time; spreads have mean, p50 and p99 in seconds.

    Attributes:
        turn_delay_s: From each turn's arrival to its first token.
        completion_s: From each program's first arrival to the end of its last turn.
        num_hits: Turns after a program's first whose cache was kept when they came; the others are misses.
        num_gave_way: Caches that were moved off the device, or dropped, for want of memory.
        cached_percent: Share of all prompt tokens that were found in the cache.
    """

    num_programs: int
    num_turns: int
    num_hits: int
    num_misses: int
    turn_delay_s: Mapping[str, float]
    completion_s: Mapping[str, float]
    num_gave_way: int
    cached_percent: float
    virtual_s: float
    cpu_s: float

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "AgentResult":
        """Reads what the simulator reports."""
        counters = content["counters"]
        return cls(
            **content["agents"],
            num_gave_way=counters["num_offloads"] + counters["num_drops"],
            cached_percent=100 * counters["num_cached_tokens"] / max(1, counters["num_prompt_tokens"]),
            virtual_s=content["virtual_s"],
            cpu_s=content["cpu_s"],
        )

    @property
    def hit_percent(self) -> float | None:
        """Percentage of the turns after each first one that found their cache kept; None if there were none."""
        num_turns = self.num_hits + self.num_misses
        return 100 * self.num_hits / num_turns if num_turns else None


def was_short(results: Mapping[str, Sequence[AgentResult]]) -> bool:
    """Returns whether memory was short under any time to live, so that it matters what is kept.

    It was if a cache gave way, or if more of the same prompts was found under one time than under another: blocks that
    nobody keeps are given to others silently.

    Args:
        results: By time to live, a result for each seed, in the same order.
    """
    if any(one.num_gave_way for of_time in results.values() for one in of_time):
        return True
    by_seed = zip(*([one.cached_percent for one in of_time] for of_time in results.values()), strict=True)
    return any(max(shares) - min(shares) > _SAME_PERCENT for shares in by_seed)


def lifetimes(seconds: Sequence[float]) -> dict[str, dict[str, float]]:
    """Returns what is compared, by its label: fixed times, and the rule, with the settings of the core for each."""
    return {f"{plain(each)} s": {"session_ttl_s": each} for each in seconds} | {BY_RULE: {}}
