"""More requests than the service can take: whether memory stays flat, who is refused, and what is still answered."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.faults import plans
from tests.faults.checker.trend import Sample, Trend, trend
from tests.faults.checker.verdict import Outcome, judge
from tests.faults.harness.clients import Clients
from tests.faults.harness.load import closed_loop, open_loop
from tests.faults.harness.sampler import Sampler
from tests.faults.harness.service import Service, Settings
from tests.faults.plans import References
from tests.faults.records import Class, Record

PLANS = plans.mixed(7, 40, prompts=range(10, 200), outputs=range(10, 40), ls_share=0.1)
# So few places that they are taken within the warm-up, even of a short run: from then on memory must not grow.
OPTIONS = ("--max-be-requests", "1024")
_MIB = 1 << 20
_ALLOWED_GROWTH_BYTES = 32 * _MIB
_LEAST_GOODPUT = 0.9
_WINDOW_S = 5.0


@dataclass(slots=True)
class OverloadResult:
    """What became of an overload.

    Attributes:
        capacity_per_s: Requests a second that the service answered when it was asked no more than it could answer.
        capacity_tokens_per_s: Tokens a second of those.
        goodput: Tokens a second of requests that were answered whole, over windows of the overload.
        memory: What each process held, by process.
        outcomes: How requests of each class ended; those that were still open at the end are left out.
        ls_waits_s: Times to the first token of LS requests that were admitted.
    """

    capacity_per_s: float = 0.0
    capacity_tokens_per_s: float = 0.0
    goodput: list[Sample] = field(default_factory=list)
    memory: dict[str, Trend] = field(default_factory=dict)
    outcomes: dict[Class, Counter[Outcome]] = field(default_factory=lambda: {each: Counter() for each in Class})
    ls_waits_s: list[float] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """What was not as it should be."""
        problems = [f"{who} grows by {found.growth / _MIB:.0f} MiB" for who, found in self._growing()]
        if self.mean_goodput < _LEAST_GOODPUT * self.capacity_tokens_per_s:
            share = self.mean_goodput / self.capacity_tokens_per_s
            problems.append(f"goodput is {share:.2f} of the capacity, allowed is {_LEAST_GOODPUT} and more")
        if self.share(Class.LATENCY_SENSITIVE, Outcome.REFUSED) > self.share(Class.BEST_EFFORT, Outcome.REFUSED):
            problems.append("latency-sensitive requests are refused more often than best-effort ones")
        flawed = sum(counts[Outcome.FLAWED] for counts in self.outcomes.values())
        return [*problems, *([f"{flawed} requests are flawed"] if flawed else [])]

    def _growing(self) -> list[tuple[str, Trend]]:
        return [(who, found) for who, found in self.memory.items() if not found.is_flat(_ALLOWED_GROWTH_BYTES)]

    @property
    def mean_goodput(self) -> float:
        """Tokens a second over all windows but the first, in which the queues fill."""
        later = [tokens_per_s for _, tokens_per_s in self.goodput[1:]]
        return sum(later) / len(later) if later else 0.0

    def share(self, request_class: Class, outcome: Outcome) -> float:
        """Returns the share of a class's ended requests that ended so."""
        counts = self.outcomes[request_class]
        return counts[outcome] / max(1, sum(counts.values()))


async def run_overload(
    settings: Settings,
    *,
    factor: float,
    duration_s: float,
    capacity_s: float = 20.0,
    num_clients: int = 16,
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> OverloadResult:
    """Measures what the service can answer, then asks for `factor` times as much."""
    references, result = References(), OverloadResult()
    async with Service(settings) as service:
        await references.learn(service.address, PLANS)
        await _measure_capacity(service, result, capacity_s, num_clients, seed)
        tell(f"capacity: {result.capacity_per_s:.1f} requests/s, {result.capacity_tokens_per_s:.0f} tokens/s")
        async with Clients(service.address) as clients, Sampler(service) as sampler:
            began_s = time.monotonic()
            async with open_loop(clients, PLANS, factor * result.capacity_per_s, seed):
                while (spent_s := time.monotonic() - began_s) < duration_s:
                    tell(f"{spent_s:.0f} s: {len(clients.records)} requests, {len(clients.open_records)} open")
                    await asyncio.sleep(min(30.0, duration_s - spent_s))
            _judge(result, clients.records, references, began_s, duration_s)
        result.memory = {
            what.partition(" ")[0]: trend(samples)
            for what, samples in sampler.series.items()
            if what.endswith("rss_bytes")
        }
    return result


async def _measure_capacity(
    service: Service, result: OverloadResult, duration_s: float, num_clients: int, seed: int
) -> None:
    async with Clients(service.address) as clients:
        began_s = time.monotonic()
        async with closed_loop(clients, PLANS, num_clients, seed):
            await asyncio.sleep(duration_s)
            whole = _whole(clients.records)
            spent_s = time.monotonic() - began_s
            result.capacity_per_s = len(whole) / spent_s
            result.capacity_tokens_per_s = sum(len(record.token_ids) for record in whole) / spent_s


def _judge(
    result: OverloadResult, records: Sequence[Record], references: References, began_s: float, duration_s: float
) -> None:
    for record in records:
        if record.ended_s is not None:
            verdict = judge(record, references.of(record.plan), ())
            result.outcomes[record.plan.request_class][verdict.outcome] += 1
        if record.plan.request_class is Class.LATENCY_SENSITIVE and record.first_token_s is not None:
            result.ls_waits_s.append(record.first_token_s - record.sent_s)
    windows = Counter(dict.fromkeys(range(int(duration_s / _WINDOW_S)), 0))
    for record in _whole(records):
        windows[int(((record.ended_s or began_s) - began_s) / _WINDOW_S)] += len(record.token_ids)
    whole_windows = sorted(windows.items())[: int(duration_s / _WINDOW_S)]
    result.goodput = [(window * _WINDOW_S, tokens / _WINDOW_S) for window, tokens in whole_windows]


def _whole(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.status == "OK"]


def report(result: OverloadResult) -> list[str]:
    """Returns the result in lines."""
    waits = sorted(result.ls_waits_s)
    lines = [
        f"capacity: {result.capacity_per_s:.1f} requests/s, {result.capacity_tokens_per_s:.0f} tokens/s",
        f"goodput under overload: {result.mean_goodput:.0f} tokens/s",
        *(f"{each}: " + ", ".join(f"{n} {how}" for how, n in sorted(result.outcomes[each].items())) for each in Class),
    ]
    if waits:
        median, late = waits[len(waits) // 2], waits[int(0.99 * (len(waits) - 1))]
        lines.append(f"LS requests waited for their first token: median {median:.3f} s, 99 % within {late:.3f} s")
    lines += [
        f"{who} memory: {found.mean / _MIB:.0f} MiB, grows by {found.growth / _MIB:.1f} MiB in the run"
        for who, found in result.memory.items()
    ]
    return [*lines, *result.problems]
