"""What a load came to: the requests of the measuring window, and what happened within it. Pure.

The window is a stretch of time in the middle of the load. Requests whose intended time lies in it are measured, each to
its end, the load going on meanwhile. Tokens and ends count for throughput if they came within the window, whichever
request they belong to, finished or not.

    load starts       window                           all measured requests have ended
    |-- warm-up --|========================|-- drain --|
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from qllm.client.bench.load.record import DONE, RequestRecord, RequestRow
from qllm.client.bench.load.workload import CLASSES
from qllm.client.messages import RequestClass

_MAX_BINS = 240
_SHORT_BIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Window:
    """The measured stretch, in seconds on the load's clock."""

    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end_s - self.start_s

    def holds(self, at_s: float) -> bool:
        """Whether a time lies in it."""
        return self.start_s <= at_s < self.end_s


@dataclass(frozen=True, slots=True)
class Throughput:
    """What came within the window, by class.

    Attributes:
        num_tokens: Tokens, also of requests that had not ended.
        num_finished_tokens: All tokens of the requests that ended in it.
        num_done: Requests that ended in it, with their whole answers.
        num_prompt_tokens: Prompt tokens of the requests whose first token came in it.
        bin_s: Length of a bin.
        bins: Tokens that came in each bin.
    """

    num_tokens: Mapping[RequestClass, int]
    num_finished_tokens: Mapping[RequestClass, int]
    num_done: Mapping[RequestClass, int]
    num_prompt_tokens: Mapping[RequestClass, int]
    bin_s: float
    bins: Mapping[RequestClass, Sequence[int]]

    @classmethod
    def of(cls, records: Iterable[RequestRecord], window: Window) -> "Throughput":
        """Counts what came within the window."""
        records = list(records)
        ended = [record for record in records if record.ended_s is not None and window.holds(record.ended_s)]
        done = [record for record in ended if record.outcome == DONE]
        begun = [record for record in records if record.chunk_times_s and window.holds(record.chunk_times_s[0])]
        bin_s = _bin_s(window.seconds)
        return cls(
            num_tokens=_by_class(records, lambda record: record.num_tokens_within(window.start_s, window.end_s)),
            num_finished_tokens=_by_class(done, lambda record: record.num_tokens),
            num_done=_by_class(done, lambda record: 1),
            num_prompt_tokens=_by_class(
                begun, lambda record: record.num_prompt_tokens or record.lengths.num_prompt_tokens
            ),
            bin_s=bin_s,
            bins=_bins(records, window, bin_s),
        )


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one load, or several of the same kind, came to.

    Attributes:
        seconds: Length of the window; of several loads, the sum.
        idle: Requests of the idle baseline.
        rows: Measured requests.
        gaps_ms: Times between two chunks of one measured request, by class.
        throughput: What came within the window.
        counters: By how much the server's own counters grew within the window.
        messages: One message for each kind of failure.
    """

    seconds: float
    idle: tuple[RequestRow, ...]
    rows: tuple[RequestRow, ...]
    gaps_ms: Mapping[RequestClass, Sequence[float]]
    throughput: Throughput
    counters: Mapping[str, int] = field(default_factory=dict)
    messages: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        idle: Iterable[RequestRecord],
        records: Sequence[RequestRecord],
        window: Window,
        counters: Mapping[str, int],
        messages: Mapping[str, str],
    ) -> "Measurement":
        """Takes what matters from all records of a load."""
        measured = [record for record in records if window.holds(record.intended_s)]
        gaps_ms: dict[RequestClass, list[float]] = {request_class: [] for request_class in CLASSES}
        for record in measured:
            gaps_ms[record.request_class].extend(gap_s * 1e3 for gap_s in record.gaps_s)
        return cls(
            seconds=window.seconds,
            idle=tuple(RequestRow.of(record, 0.0) for record in idle),
            rows=tuple(RequestRow.of(record, window.start_s) for record in measured),
            gaps_ms=gaps_ms,
            throughput=Throughput.of(records, window),
            counters=counters,
            messages=messages,
        )


def pool(parts: Sequence[Measurement]) -> Measurement:
    """Returns the measurements of several loads as one of their whole time; all windows have the same bins."""
    throughputs = [part.throughput for part in parts]
    counters: Counter[str] = Counter()
    for part in parts:
        counters.update(part.counters)
    return Measurement(
        seconds=math.fsum(part.seconds for part in parts),
        idle=tuple(row for part in parts for row in part.idle),
        rows=tuple(row for part in parts for row in part.rows),
        gaps_ms={name: [gap for part in parts for gap in part.gaps_ms[name]] for name in CLASSES},
        throughput=Throughput(
            num_tokens=_sum([one.num_tokens for one in throughputs]),
            num_finished_tokens=_sum([one.num_finished_tokens for one in throughputs]),
            num_done=_sum([one.num_done for one in throughputs]),
            num_prompt_tokens=_sum([one.num_prompt_tokens for one in throughputs]),
            bin_s=throughputs[0].bin_s,
            bins={name: [count for one in throughputs for count in one.bins[name]] for name in CLASSES},
        ),
        counters=dict(counters),
        messages={kind: message for part in reversed(parts) for kind, message in part.messages.items()},
    )


def _by_class(records: Iterable[RequestRecord], measure: Callable[[RequestRecord], int]) -> dict[RequestClass, int]:
    sums = dict.fromkeys(CLASSES, 0)
    for record in records:
        sums[record.request_class] += measure(record)
    return sums


def _sum(parts: Sequence[Mapping[RequestClass, int]]) -> dict[RequestClass, int]:
    return {name: sum(part[name] for part in parts) for name in CLASSES}


def _bin_s(seconds: float) -> float:
    """Returns the length of a bin: half a second, or whole seconds where that makes too many."""
    return _SHORT_BIN_S if seconds <= _MAX_BINS * _SHORT_BIN_S else float(math.ceil(seconds / _MAX_BINS))


def _bins(records: Iterable[RequestRecord], window: Window, bin_s: float) -> dict[RequestClass, list[int]]:
    num_bins = max(math.ceil(window.seconds / bin_s), 1)
    bins = {request_class: [0] * num_bins for request_class in CLASSES}
    for record in records:
        for at_s, num_tokens in zip(record.chunk_times_s, record.chunk_tokens, strict=True):
            if window.holds(at_s):
                bins[record.request_class][int((at_s - window.start_s) // bin_s)] += num_tokens
    return bins
