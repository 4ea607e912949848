"""What each step from first-come-first-served to stopping inside an iteration buys. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from qllm.client.bench.results.summary import Summary
from qllm.client.bench.set_ups import SetUpName

_STEPS = (
    ("priority between iterations", SetUpName.FCFS, SetUpName.PRIORITY),
    ("stopping inside an iteration", SetUpName.PRIORITY, SetUpName.EXPERT),
    ("  of it, at layers", SetUpName.PRIORITY, SetUpName.LAYER),
    ("  of it, at experts too", SetUpName.LAYER, SetUpName.EXPERT),
    ("both", SetUpName.FCFS, SetUpName.EXPERT),
)


@dataclass(frozen=True, slots=True)
class Gain:
    """One step's effect on the mean time to first token of latency-sensitive requests.

    Attributes:
        name: What the step adds.
        before_ms: Mean without it.
        after_ms: Mean with it.
        factor: How many times lower it is.
        share_of_time: Share of all the milliseconds that both steps save; None if they save nothing.
        share_of_factor: Share of the whole factor, by logarithm: factors multiply, their
            logarithms add up. None likewise.
        share_of_wait: Share of the wait that this step met, over the idle server's time, that it removes. None if
            there was none.
    """

    name: str
    before_ms: float
    after_ms: float
    factor: float
    share_of_time: float | None
    share_of_factor: float | None
    share_of_wait: float | None


def find_gains(summaries: Mapping[str, Summary]) -> list[Gain]:
    """Returns the effects of all steps whose two set-ups were measured, in order."""
    means_ms = {name: summary.ls.ttft.mean_ms for name, summary in summaries.items() if summary.ls.ttft is not None}
    idle_ms = [summary.idle_ttft.mean_ms for summary in summaries.values() if summary.idle_ttft is not None]
    idle_mean_ms = math.fsum(idle_ms) / len(idle_ms) if idle_ms else None
    (_, first, last) = _STEPS[-1]
    whole = (means_ms[first], means_ms[last]) if first in means_ms and last in means_ms else None
    return [
        _gain(name, means_ms[before], means_ms[after], whole, idle_mean_ms)
        for name, before, after in _STEPS
        if before in means_ms and after in means_ms
    ]


def _gain(
    name: str, before_ms: float, after_ms: float, whole: tuple[float, float] | None, idle_ms: float | None
) -> Gain:
    saved_ms = whole[0] - whole[1] if whole else 0.0
    wait_ms = before_ms - idle_ms if idle_ms is not None else 0.0
    return Gain(
        name=name,
        before_ms=before_ms,
        after_ms=after_ms,
        factor=round(before_ms / after_ms, 3),
        share_of_time=round((before_ms - after_ms) / saved_ms, 4) if saved_ms > 0 else None,
        share_of_factor=round(math.log(before_ms / after_ms) / math.log(whole[0] / whole[1]), 4)
        if whole and saved_ms > 0
        else None,
        share_of_wait=round((before_ms - after_ms) / wait_ms, 4) if wait_ms > 0 else None,
    )
