"""Which figures of an ablation are shown, and how. Pure."""

from collections.abc import Callable, Sequence

from qllm.client.bench.report.grid import Grid
from qllm.client.bench.report.tables import NOTHING, number, statistic, times
from qllm.client.bench.results.gains import Gain
from qllm.client.bench.results.result_file import Result
from qllm.client.bench.results.spread import Spread
from qllm.client.bench.results.summary import Summary
from qllm.client.bench.set_ups import SetUpName


def ablation_grids(results: Sequence[Result], found: Sequence[Gain]) -> list[Grid]:
    """Returns the table of all set-ups, and the one that tells where the gain comes from."""
    return [_set_up_grid(results), _gain_grid(found)]


def _set_up_grid(results: Sequence[Result]) -> Grid:
    summaries = [result.summary for result in results]
    base = next((result.summary for result in results if result.label == SetUpName.FCFS), None)
    base_ttft, base_turnaround = (base.ls.ttft, base.be.turnaround) if base else (None, None)
    rows: list[tuple[str, Callable[[Summary], str]]] = [
        ("LS TTFT idle, mean ms", lambda one: statistic(one.idle_ttft, "mean_ms")),
        ("LS TTFT, mean ms", lambda one: statistic(one.ls.ttft, "mean_ms")),
        ("  p50", lambda one: statistic(one.ls.ttft, "p50_ms")),
        ("  p99", lambda one: statistic(one.ls.ttft, "p99_ms")),
        ("  mean / idle", lambda one: times(one.ttft_to_idle.mean if one.ttft_to_idle else None)),
        ("  lower than under fcfs", lambda one: times(_over(base_ttft, one.ls.ttft))),
        ("LS turnaround, mean ms", lambda one: statistic(one.ls.turnaround, "mean_ms")),
        ("  mean / idle", lambda one: times(one.turnaround_to_idle.mean if one.turnaround_to_idle else None)),
        ("BE turnaround, mean ms", lambda one: statistic(one.be.turnaround, "mean_ms")),
        ("  to fcfs", lambda one: times(_over(one.be.turnaround, base_turnaround))),
        ("output tokens/s", lambda one: number(one.tokens_per_s)),
        ("  to fcfs", lambda one: times(one.tokens_per_s / base.tokens_per_s if base and base.tokens_per_s else None)),
        ("LS / BE requests", lambda one: f"{one.ls.num_requests} / {one.be.num_requests}"),
    ]
    header = ("", *(result.label for result in results))
    return Grid("One engine, one workload", header, tuple((name, *map(shown, summaries)) for name, shown in rows))


def _gain_grid(found: Sequence[Gain]) -> Grid:
    header = (
        "what is added",
        "LS TTFT, mean ms",
        "lower by",
        "of the time saved",
        "of the factor",
        "of the wait it met",
    )
    rows = tuple(
        (
            gain.name,
            f"{number(gain.before_ms)} -> {number(gain.after_ms)}",
            times(gain.factor),
            _percent(gain.share_of_time),
            _percent(gain.share_of_factor),
            _percent(gain.share_of_wait),
        )
        for gain in found
    )
    return Grid("Where the gain comes from", header, rows)


def _over(part: Spread | None, whole: Spread | None) -> float | None:
    return part.mean_ms / whole.mean_ms if part is not None and whole is not None and whole.mean_ms > 0 else None


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.0%}"
