"""What is asked of a server, and when: a source of requests for each class. Knows nothing of prompts and servers.

An open-loop source fixes the times in advance, whatever the server does: Poisson arrivals, or a trace. A closed-loop
source is a number of clients who each wait for an answer before they ask again; in a crowd that number changes.
"""

import asyncio
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from qllm.client.bench.load.trace import Trace, TraceRow
from qllm.client.messages import RequestClass

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
CLASSES = (LS, BE)


@dataclass(frozen=True, slots=True, order=True)
class Lengths:
    """Tokens of a prompt, and the most tokens to generate for it."""

    num_prompt_tokens: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of an open loop, `at_s` seconds after the load's start."""

    at_s: float
    lengths: Lengths


class OpenLoop(Protocol):
    """A source whose requests come at times of their own."""

    def arrivals(self) -> Iterator[Arrival]:
        """Yields the requests in order, the same ones each time, without end unless there are none."""


@dataclass(frozen=True, slots=True)
class Poisson:
    """Requests at random times, `rate_per_s` a second in the mean; the seed fixes them."""

    rate_per_s: float
    lengths: Lengths
    seed: str

    def arrivals(self) -> Iterator[Arrival]:
        """Yields requests without end."""
        chance = random.Random(self.seed)
        at_s = 0.0
        while True:
            at_s += chance.expovariate(self.rate_per_s)
            yield Arrival(at_s, self.lengths)


@dataclass(frozen=True, slots=True)
class Replay:
    """A trace, its times multiplied by `time_scale`; it starts over when it ends.

    Attributes:
        longest: Prompts and outputs that are longer are cut to these lengths; None leaves them.
    """

    trace: Trace
    time_scale: float
    longest_prompt: int | None = None
    longest_output: int | None = None

    def arrivals(self) -> Iterator[Arrival]:
        """Yields the trace's requests again and again."""
        if not self.trace.rows:
            return
        for turn in itertools.count():
            for row in self.trace.rows:
                yield Arrival((row.at_s + turn * self.trace.period_s) * self.time_scale, self._lengths(row))

    def _lengths(self, row: TraceRow) -> Lengths:
        return Lengths(
            min(row.num_prompt_tokens, self.longest_prompt or row.num_prompt_tokens),
            min(row.num_output_tokens, self.longest_output or row.num_output_tokens),
        )


@dataclass(frozen=True, slots=True)
class Until:
    """The requests of another source in its first seconds."""

    source: OpenLoop
    seconds: float

    def arrivals(self) -> Iterator[Arrival]:
        """Yields them."""
        return itertools.takewhile(lambda arrival: arrival.at_s < self.seconds, self.source.arrivals())


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """Clients who ask one by one, each `pause_s` after its last answer."""

    num_clients: int
    pause_s: float
    lengths: Lengths


class Crowd:
    """Clients of a closed loop without pauses, whose number may change while they ask; nobody is there at first.

    Attributes:
        num_clients: How many there are to be. Those who are too many leave after the answer that they wait for.
        lengths: What each of them asks for.
    """

    def __init__(self, lengths: Lengths) -> None:
        self.num_clients = 0
        self.lengths = lengths
        self._resized = asyncio.Event()

    def resize(self, num_clients: int) -> None:
        """Lets so many clients ask from now on."""
        self.num_clients = num_clients
        self._resized.set()

    async def wait_for_another_size(self) -> None:
        """Returns once the number was set again."""
        self._resized.clear()
        await self._resized.wait()


Source = OpenLoop | ClosedLoop | Crowd
Workload = dict[RequestClass, Source]
"""The source of each class that takes part."""


def split(trace: Trace, ls_share: float, seed: int) -> dict[RequestClass, Trace]:
    """Gives each request of a trace to a class, `ls_share` of them to the latency-sensitive one; the seed fixes which.

    Both parts keep the times and the period of the whole.
    """
    chance = random.Random(f"split {seed}")
    rows: dict[RequestClass, list[TraceRow]] = {LS: [], BE: []}
    for row in trace.rows:
        rows[LS if chance.random() < ls_share else BE].append(row)
    return {request_class: Trace(tuple(own), trace.period_s) for request_class, own in rows.items()}


def sample_lengths(source: Source, count: int, seconds: float) -> list[Lengths]:
    """Returns `count` lengths that stand for those which the source asks for in its first seconds, short ones first."""
    if isinstance(source, (ClosedLoop, Crowd)):
        return [source.lengths] * count
    arrivals = source.arrivals()
    first = next(arrivals, None)
    if first is None:
        return []
    others = itertools.takewhile(lambda arrival: arrival.at_s < seconds, arrivals)
    ordered = sorted([first.lengths, *(arrival.lengths for arrival in others)])
    return [ordered[(2 * number + 1) * len(ordered) // (2 * count)] for number in range(count)]
