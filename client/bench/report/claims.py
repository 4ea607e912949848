"""The claims of the QLLM paper beside what simulations came to. Pure; the only constants are the paper's own words.

Source: arXiv 2503.09304, abstract and evaluation.
"""

import math
from collections.abc import Callable, Sequence

from qllm.client.bench.report.grid import Grid
from qllm.client.bench.report.tables import NOTHING, times
from qllm.client.bench.set_ups import SetUpName
from qllm.client.bench.simulation.sweep import ALONE, PointResult, PolicyResult

_COLUMN_NAMES = {SetUpName.EXPERT: "qllm", ALONE: "qllm, LS work alone", SetUpName.PAPER: "Algorithm 1"}
_Sweep = Sequence[PointResult[PolicyResult]]


def claims_grid(sweep: _Sweep, slo_s: float, how: str) -> Grid | None:
    """Returns the paper's claims on a sweep of the rate, and the same figures of our policy and of Algorithm 1.

    Args:
        sweep: What was run.
        slo_s: Objective for first tokens, in seconds.
        how: SIMULATED or MEASURED, which every figure of ours is marked with.
    """
    columns = [label for label in _COLUMN_NAMES if all(label in point.results for point in sweep)]
    if not columns or not all(SetUpName.FCFS in point.results for point in sweep):
        return None
    rows = [
        ("LS TTFT, times lower: average", "65.5x", *(_mean(_gains(sweep, label, _ttft)) for label in columns)),
        ("LS TTFT, times lower: best", "101.6x", *(_most(_gains(sweep, label, _ttft)) for label in columns)),
        (f"LS TTFT within {slo_s:g} s: mean, up to", "7 req/s", *(_met_up_to(sweep, one, slo_s) for one in columns)),
        ("  the same, fcfs", "at no rate", *(_met_up_to(sweep, SetUpName.FCFS, slo_s) for _ in columns)),
        ("LS turnaround, times lower: best", "12.8x", *(_most(_gains(sweep, one, _ls_turnaround)) for one in columns)),
        (
            "BE turnaround, times higher: average",
            "1.38x",
            *(_mean(_costs(sweep, one, _be_turnaround)) for one in columns),
        ),
        (
            "BE turnaround, times higher: worst",
            "2.04x",
            *(_most(_costs(sweep, one, _be_turnaround)) for one in columns),
        ),
        ("throughput to fcfs: average", "1x or more", *(_mean(_costs(sweep, one, _throughput)) for one in columns)),
        ("throughput to fcfs: worst", NOTHING, *(_least(_costs(sweep, one, _throughput)) for one in columns)),
    ]
    header = ("against fcfs", "measured in the paper", *(f"{how}: {_COLUMN_NAMES[label]}" for label in columns))
    return Grid(f"{how}: the claims of arXiv 2503.09304", header, tuple(rows))


def _gains(sweep: _Sweep, label: str, figure: Callable[[PolicyResult], float]) -> list[float]:
    return [1.0 / cost for cost in _costs(sweep, label, figure)]


def _costs(sweep: _Sweep, label: str, figure: Callable[[PolicyResult], float]) -> list[float]:
    """Returns a figure over that of fcfs at each point where both had such requests."""
    pairs = [(figure(point.results[label]), figure(point.results[SetUpName.FCFS])) for point in sweep]
    return [own / other for own, other in pairs if own > 0 and other > 0]


def _met_up_to(sweep: _Sweep, label: str, slo_s: float) -> str:
    """Returns the highest rate up to which the mean keeps the objective at every rate that was run."""
    met: float | None = None
    for point in sorted(sweep, key=lambda one: one.value or 0.0):
        if _ttft(point.results[label]) > slo_s * 1e3:
            break
        met = point.value
    return "at no rate" if met is None else f"{met:g} req/s"


def _ttft(result: PolicyResult) -> float:
    return result.ls.ttft.mean_ms if result.ls.ttft else 0.0


def _ls_turnaround(result: PolicyResult) -> float:
    return result.ls.turnaround.mean_ms if result.ls.turnaround else 0.0


def _be_turnaround(result: PolicyResult) -> float:
    return result.be.turnaround.mean_ms if result.be.turnaround else 0.0


def _throughput(result: PolicyResult) -> float:
    return result.tokens_per_s


def _mean(ratios: Sequence[float]) -> str:
    return times(math.fsum(ratios) / len(ratios)) if ratios else NOTHING


def _most(ratios: Sequence[float]) -> str:
    return times(max(ratios, default=None))


def _least(ratios: Sequence[float]) -> str:
    return times(min(ratios, default=None))
