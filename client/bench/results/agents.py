"""The figures of a load of agents' programs. Pure."""

from collections.abc import Mapping, Sequence

from qllm.client.bench.load.memory.agent_load import ProgramRecord
from qllm.client.bench.results.answers import hit_percent, mean_ttft_ms, ttfts_ms
from qllm.client.bench.results.mean import mean_value
from qllm.client.bench.results.spread import percentile
from qllm.client.bench.results.turns import Figure, Figures

FIGURES = (
    Figure("num_programs", "programs", 0),
    Figure("num_failed", "  failed", 0),
    Figure("num_turns", "turns", 0),
    Figure("turn_delay_ms", "turn delay, mean ms", is_compared=True),
    Figure("turn_delay_p50_ms", "turn delay, p50 ms", is_compared=True),
    Figure("turn_delay_p99_ms", "turn delay, p99 ms", is_compared=True),
    Figure("later_turn_delay_ms", "  after a tool, mean ms", is_compared=True),
    Figure("job_s", "job completion, mean s", 2, is_compared=True),
    Figure("job_p50_s", "job completion, p50 s", 2, is_compared=True),
    Figure("job_p99_s", "job completion, p99 s", 2, is_compared=True),
    Figure("tools_s", "  of it tools, mean s", 2),
    Figure("hit_percent", "prompt found after a tool, %"),
    Figure("be_tokens_per_s", "BE tokens/s beside", is_compared=True),
    Figure("demand_x", "most that programs wanted, over the cache", 2),
    Figure("num_session_hits", "turns that found their cache kept", 0),
    Figure("num_session_misses", "  that did not", 0),
    Figure("num_offloads", "caches offloaded", 0),
    Figure("num_restores", "caches restored", 0),
    Figure("num_drops", "caches dropped", 0),
    Figure("num_recomputed_tokens", "tokens computed again", 0),
)
"""What tables show, in their order."""
_COUNTERS = (
    "num_session_hits",
    "num_session_misses",
    "num_offloads",
    "num_restores",
    "num_drops",
    "num_recomputed_tokens",
)


def figures_of(records: Sequence[ProgramRecord], moved: Mapping[str, float]) -> Figures:
    """Computes the figures of some programs.

    A turn's delay is the time from when it was sent to its first token; a job is complete when its last token has come.

    Args:
        records: The programs.
        moved: By how much each counter of admin.proto's MemoryLoad grew meanwhile.
    """
    done = [(record, record.total_s) for record in records if record.total_s is not None]
    delays_ms = ttfts_ms([answer for record, _ in done for answer in record.answers])
    later = [answer for record, _ in done for answer in record.answers[1:]]
    jobs_s = sorted(total_s for _, total_s in done)
    return {
        "num_programs": len(records),
        "num_failed": len(records) - len(done),
        "num_turns": len(delays_ms),
        "turn_delay_ms": mean_value(delays_ms),
        "turn_delay_p50_ms": percentile(delays_ms, 50) if delays_ms else None,
        "turn_delay_p99_ms": percentile(delays_ms, 99) if delays_ms else None,
        "later_turn_delay_ms": mean_ttft_ms(later),
        "job_s": mean_value(jobs_s),
        "job_p50_s": percentile(jobs_s, 50) if jobs_s else None,
        "job_p99_s": percentile(jobs_s, 99) if jobs_s else None,
        "tools_s": mean_value([sum(step.tool_s for step in record.program.steps) for record, _ in done]),
        "hit_percent": hit_percent(later),
        **{name: moved.get(name) for name in _COUNTERS},
    }
