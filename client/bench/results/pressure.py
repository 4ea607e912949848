"""The figures of a run under pressure. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qllm.client.bench.load.measurement import Measurement
from qllm.client.bench.load.record import RequestRow
from qllm.client.bench.load.workload import BE, LS
from qllm.client.bench.results.mean import Mean, mean_value
from qllm.client.bench.results.spread import percentile
from qllm.client.bench.results.turns import Figure, Figures

_MIB = 1 << 20

FIGURES = (
    Figure("demand_x", "demand over what the cache holds"),
    Figure("num_be_clients", "BE requests at a time", 0),
    Figure("num_asked", "requests asked", 0),
    Figure("num_not_done", "  without a whole answer", 0),
    Figure("num_compared", "answers compared", 0),
    Figure("num_different", "  with other tokens than alone", 0),
    Figure("ls_ttft_idle_ms", "LS TTFT idle, mean ms"),
    Figure("ls_ttft_idle_error_ms", "  its standard error"),
    Figure("ls_ttft_loaded_ms", "LS TTFT loaded, mean ms", is_compared=True),
    Figure("ls_ttft_loaded_error_ms", "  its standard error"),
    Figure("ls_ttft_loaded_p99_ms", "LS TTFT loaded, p99 ms", is_compared=True),
    Figure("ls_ttft_to_idle", "LS TTFT loaded / idle", 3),
    Figure("ls_ttft_to_idle_error", "  its standard error", 3),
    Figure("ls_turnaround_ms", "LS turnaround loaded, mean ms", is_compared=True),
    Figure("be_tokens_per_s", "BE output tokens/s", is_compared=True),
    Figure("be_requests_per_s", "BE requests/s", 3, is_compared=True),
    Figure("num_offloads", "caches offloaded", 0),
    Figure("num_offloaded_blocks", "  blocks", 0),
    Figure("offloaded_mib", "  MiB"),
    Figure("offload_ms", "  ms of the worker's time"),
    Figure("num_restores", "caches restored", 0),
    Figure("num_restored_blocks", "  blocks", 0),
    Figure("restored_mib", "  MiB"),
    Figure("restore_ms", "  ms of the worker's time"),
    Figure("num_drops", "caches dropped", 0),
    Figure("num_recomputed_tokens", "  tokens computed again", 0),
    Figure("redone_percent", "  % of all tokens of answered requests", 2),
    Figure("num_leaked_blocks", "blocks held when nothing runs", 0),
    Figure("num_problems", "problems in the books", 0),
)
"""What tables show, in their order."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to besides its window.

    Attributes:
        demand: Blocks that the best-effort requests at a time want, over those of the cache.
        num_work_tokens: Prompt and output tokens of the requests of both classes that were answered.
        moved: By how much each counter of admin.proto's MemoryLoad grew.
        block_bytes: Bytes of one block; 0: not known.
        num_leaked_blocks: Blocks that somebody held when nothing ran any more.
        num_problems: What the check of the books found.
    """

    demand: float
    num_be_clients: int
    num_asked: int
    num_done: int
    num_compared: int
    num_different: int
    num_work_tokens: int
    moved: Mapping[str, float]
    block_bytes: float
    num_leaked_blocks: int
    num_problems: int


def figures_of(measurement: Measurement, outcome: Outcome) -> Figures:
    """Computes all figures of a run; their names are those of `FIGURES`."""
    moved, mib_each = outcome.moved, outcome.block_bytes / _MIB
    return {
        "demand_x": outcome.demand,
        "num_be_clients": outcome.num_be_clients,
        "num_asked": outcome.num_asked,
        "num_not_done": outcome.num_asked - outcome.num_done,
        "num_compared": outcome.num_compared,
        "num_different": outcome.num_different,
        **_latencies(measurement),
        "be_tokens_per_s": measurement.throughput.num_tokens[BE] / measurement.seconds if measurement.seconds else None,
        "be_requests_per_s": measurement.throughput.num_done[BE] / measurement.seconds if measurement.seconds else None,
        "num_offloads": moved["num_offloads"],
        "num_offloaded_blocks": moved["num_offloaded_blocks"],
        "offloaded_mib": moved["num_offloaded_blocks"] * mib_each,
        "offload_ms": moved["offload_ns"] * 1e-6,
        "num_restores": moved["num_restores"],
        "num_restored_blocks": moved["num_restored_blocks"],
        "restored_mib": moved["num_restored_blocks"] * mib_each,
        "restore_ms": moved["restore_ns"] * 1e-6,
        "num_drops": moved["num_drops"],
        "num_recomputed_tokens": moved["num_recomputed_tokens"],
        "redone_percent": _percent(moved["num_recomputed_tokens"], outcome.num_work_tokens),
        "num_leaked_blocks": outcome.num_leaked_blocks,
        "num_problems": outcome.num_problems,
    }


def _latencies(measurement: Measurement) -> dict[str, float | None]:
    rows = [row for row in measurement.rows if row.request_class is LS and not row.is_failed]
    loaded_ms = sorted(_waits_ms(rows))
    idle, loaded = Mean.of(_waits_ms(measurement.idle)), Mean.of(loaded_ms)
    ratio = loaded.over(idle) if loaded else None
    return {
        "ls_ttft_idle_ms": _value(idle),
        "ls_ttft_idle_error_ms": _error(idle),
        "ls_ttft_loaded_ms": _value(loaded),
        "ls_ttft_loaded_error_ms": _error(loaded),
        "ls_ttft_loaded_p99_ms": percentile(loaded_ms, 99) if loaded_ms else None,
        "ls_ttft_to_idle": _value(ratio),
        "ls_ttft_to_idle_error": _error(ratio),
        "ls_turnaround_ms": mean_value(row.total_ms for row in rows),
    }


def _waits_ms(rows: Iterable[RequestRow]) -> list[float]:
    """Returns times to first token; of a request that was given up without one, the time that it had waited."""
    return [row.total_ms if row.ttft_ms is None else row.ttft_ms for row in rows]


def _percent(part: float, whole: float) -> float | None:
    return 100 * part / whole if whole else None


def _value(mean: Mean | None) -> float | None:
    return None if mean is None else mean.value


def _error(mean: Mean | None) -> float | None:
    return None if mean is None else mean.error
