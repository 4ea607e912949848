"""A long load with clients that leave early and read slowly: whether anything grows, and whether anything is left."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.faults import plans
from tests.faults.checker.trend import Trend, trend
from tests.faults.checker.verdict import Flaw, Outcome, judge
from tests.faults.harness.clients import Clients
from tests.faults.harness.load import closed_loop, restless
from tests.faults.harness.sampler import Sampler
from tests.faults.harness.service import Service, Settings, until
from tests.faults.plans import References
from tests.faults.records import Record

PLANS = plans.mixed(6, 24, prompts=range(10, 400), outputs=range(10, 80), ls_share=0.4)
_MIB = 1 << 20
# What may grow over a whole run before it counts as growing: less than one leak a minute over half an hour.
ALLOWED = {"rss_bytes": 16 * _MIB, "num_descriptors": 4, "num_threads": 2, "blocks held": 16}
_TELL_EVERY_S = 60.0


@dataclass(slots=True)
class SoakResult:
    """What became of a soak.

    Attributes:
        trends: By what was looked at.
        left: What the service still held when all requests were over.
    """

    trends: dict[str, Trend] = field(default_factory=dict)
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    flaws: Counter[Flaw] = field(default_factory=Counter)
    left: list[str] = field(default_factory=list)

    @property
    def growing(self) -> list[str]:
        """What grows by more than is allowed."""
        return [what for what, found in self.trends.items() if not found.is_flat(allowed(what))]

    @property
    def is_clean(self) -> bool:
        """Whether nothing grows, nothing is left and nothing was wrong with any request."""
        return not (self.growing or self.left or self.flaws)


def allowed(what: str) -> float:
    """Returns by how much something may grow over a run."""
    return next(limit for ending, limit in ALLOWED.items() if what.endswith(ending))


async def run_soak(
    settings: Settings,
    *,
    duration_s: float,
    num_clients: int = 12,
    seed: int = 0,
    interval_s: float = 1.0,
    tell: Callable[[str], None] = lambda _: None,
) -> SoakResult:
    """Runs a closed loop of restless clients, and looks at the service all the time."""
    references, result = References(), SoakResult()

    def count(record: Record) -> None:
        verdict = judge(record, references.of(record.plan), ())
        result.outcomes[verdict.outcome] += 1
        result.flaws.update(verdict.flaws)
        clients.records.remove(record)

    async with Service(settings) as service:
        await references.learn(service.address, PLANS)
        async with Clients(service.address, on_end=count) as clients:
            async with (
                Sampler(service, interval_s) as sampler,
                closed_loop(clients, PLANS, num_clients, seed, restless),
            ):
                end_s = time.monotonic() + duration_s
                while (left_s := end_s - time.monotonic()) > 0:
                    tell(f"{left_s:.0f} s left, {sum(result.outcomes.values())} requests so far")
                    await asyncio.sleep(min(left_s, _TELL_EVERY_S))
            result.flaws[Flaw.HUNG] += len(clients.records)
        result.flaws += Counter()  # drops those that never were
        result.trends = {what: trend(samples) for what, samples in sampler.series.items()}
        result.left = await _left(service)
    return result


async def _left(service: Service) -> list[str]:
    loads = await service.loads(check=True)
    for _ in range(50):
        if loads is not None and loads.free_blocks == loads.total_blocks:
            return list(loads.check.problems)
        await until(lambda: False, 0.1)
        loads = await service.loads(check=True)
    return ["it does not answer" if loads is None else f"{loads.total_blocks - loads.free_blocks} blocks are held"]


def report(result: SoakResult) -> list[str]:
    """Returns the result in lines."""
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(result.outcomes.items()))
    lines = [f"requests: {counts}", f"{'what':28} {'mean':>12} {'grows an hour':>15} {'error':>12} {'in the run':>12}"]
    for what, found in result.trends.items():
        hourly, error = found.per_s * 3600, found.error_per_s * 3600
        verdict = "flat" if found.is_flat(allowed(what)) else f"GROWS (allowed {allowed(what):,.0f})"
        lines.append(
            f"{what:28} {found.mean:>12,.1f} {hourly:>15,.1f} {error:>12,.1f} {found.growth:>12,.1f}  {verdict}"
        )
    lines += [f"left at the end: {problem}" for problem in result.left]
    lines += [f"{flaw}: {count}" for flaw, count in sorted(result.flaws.items())]
    return lines
