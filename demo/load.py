"""Sends requests of both classes to a service and keeps what came back. Decides no prompts and draws no pictures."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from client import AsyncClient, Delta, GenerateOptions, GenerationResult, Loads, Prompt, RequestClass

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
_POLL_S = 0.2


class Workload(Protocol):
    """What is asked: the n-th prompt of a class is always the same one, whoever sends it and when."""

    def prompt(self, request_class: RequestClass, index: int) -> Prompt:
        """Returns the class's prompt number `index`."""

    def options(self, request_class: RequestClass) -> GenerateOptions:
        """Returns how the class's prompts are to be generated from."""


class Watcher:
    """Hears of everything that happens; does nothing about it. Subclasses show it."""

    def sent(self, request_class: RequestClass, index: int) -> None:
        """Request `index` of the class was sent."""

    def received(self, request_class: RequestClass, index: int, delta: Delta) -> None:
        """A message of the request came."""

    def ended(self, request_class: RequestClass, index: int, result: GenerationResult) -> None:
        """The request is complete."""

    def polled(self, loads: Loads) -> None:
        """The service was asked for its loads."""


@dataclass(frozen=True, slots=True)
class Window:
    """What was measured from the start of a load until its last latency-sensitive answer.

    Attributes:
        seconds: Its length.
        answers: Results of all completed requests, by class and then by index.
        num_tokens: Tokens received in it by class, of unfinished requests too.
        num_finished_tokens: All tokens of the requests that were completed in it.
        before: The service's loads at its start.
        after: The service's loads at its end.
    """

    seconds: float
    answers: dict[RequestClass, dict[int, GenerationResult]]
    num_tokens: Counter[RequestClass]
    num_finished_tokens: int
    before: Loads
    after: Loads


@dataclass(slots=True)
class Load:
    """One load on one service, and what came of it so far."""

    client: AsyncClient
    workload: Workload
    watcher: Watcher
    answers: dict[RequestClass, dict[int, GenerationResult]] = field(default_factory=lambda: {LS: {}, BE: {}})
    num_tokens: Counter[RequestClass] = field(default_factory=Counter)

    @property
    def num_finished_tokens(self) -> int:
        """All tokens of the requests that are complete."""
        return sum(len(answer.token_ids) for by_index in self.answers.values() for answer in by_index.values())

    async def ask(self, request_class: RequestClass, index: int) -> GenerationResult:
        """Sends one request and reads its answer to the end."""
        options: GenerateOptions = {**self.workload.options(request_class), "request_class": request_class}
        self.watcher.sent(request_class, index)
        async with self.client.generate(self.workload.prompt(request_class, index), **options) as stream:
            async for delta in stream:
                self.num_tokens[request_class] += len(delta.token_ids)
                self.watcher.received(request_class, index, delta)
        self.answers[request_class][index] = stream.result
        self.watcher.ended(request_class, index, stream.result)
        return stream.result

    async def ask_one_by_one(self, request_class: RequestClass, indices: Iterable[int], pause_s: float = 0.0) -> None:
        """Sends each request after the last one's answer and a pause."""
        for index in indices:
            await self.ask(request_class, index)
            await asyncio.sleep(pause_s)

    async def ask_for(self, request_class: RequestClass, seconds: float, *, num_clients: int, pause_s: float) -> None:
        """Lets clients ask one by one, each for so many seconds; every client has prompts of its own."""
        end_s = time.perf_counter() + seconds

        async def one_client(first_index: int) -> None:
            index = first_index
            while time.perf_counter() < end_s:
                await self.ask(request_class, index)
                await asyncio.sleep(pause_s)
                index += num_clients

        async with asyncio.TaskGroup() as group:
            for number in range(num_clients):
                group.create_task(one_client(number))

    async def ask_at(self, request_class: RequestClass, times_s: Sequence[float]) -> None:
        """Sends the n-th request at the n-th time from now, whether or not earlier ones are answered; awaits them all."""

        async def ask_later(index: int, at_s: float) -> None:
            await asyncio.sleep(at_s)
            await self.ask(request_class, index)

        async with asyncio.TaskGroup() as group:
            for index, at_s in enumerate(times_s):
                group.create_task(ask_later(index, at_s))


@dataclass(frozen=True, slots=True)
class Foreground:
    """The latency-sensitive side of a load: at Poisson times, or by clients that each ask one by one.

    Attributes:
        seconds: How long requests are sent.
        rate_per_s: Mean arrivals a second; None lets `num_clients` ask one by one, with `pause_s` after each answer.
        seed: Fixes the arrival times.
    """

    seconds: float
    rate_per_s: float | None = None
    num_clients: int = 1
    pause_s: float = 0.0
    seed: int = 0

    async def run(self, load: Load) -> None:
        """Sends the requests and awaits their answers."""
        if self.rate_per_s is None:
            await load.ask_for(LS, self.seconds, num_clients=self.num_clients, pause_s=self.pause_s)
        else:
            await load.ask_at(LS, poisson_times(self.rate_per_s, self.seconds, self.seed))


async def run_window(load: Load, foreground: Foreground, *, num_be_clients: int, lead_s: float = 1.0) -> Window:
    """Runs latency-sensitive requests over best-effort clients that never pause, until the last of them is answered.

    Best-effort work starts `lead_s` earlier, goes on until then, and is cancelled then. Any failure ends the load.
    """
    async with asyncio.TaskGroup() as group:
        background = [
            group.create_task(load.ask_for(BE, float("inf"), num_clients=num_be_clients, pause_s=0.0)),
            group.create_task(_poll(load)),
        ]
        await asyncio.sleep(lead_s)
        before, started_s = await load.client.loads(), time.perf_counter()
        num_tokens_before, num_finished_before = Counter(load.num_tokens), load.num_finished_tokens
        async with asyncio.TaskGroup() as measured:
            measured.create_task(foreground.run(load))
            measured.create_task(asyncio.sleep(foreground.seconds))
        seconds, after = time.perf_counter() - started_s, await load.client.loads()
        num_tokens = Counter(load.num_tokens)
        num_tokens.subtract(num_tokens_before)
        num_finished_tokens = load.num_finished_tokens - num_finished_before
        for task in background:
            task.cancel()
    return Window(seconds, load.answers, num_tokens, num_finished_tokens, before, after)


def poisson_times(rate_per_s: float, seconds: float, seed: int) -> list[float]:
    """Returns the arrival times of a Poisson process in [0, seconds)."""
    chance = random.Random(seed)
    times_s: list[float] = []
    at_s = chance.expovariate(rate_per_s)
    while at_s < seconds:
        times_s.append(at_s)
        at_s += chance.expovariate(rate_per_s)
    return times_s


async def _poll(load: Load) -> None:
    while True:
        load.watcher.polled(await load.client.loads())
        await asyncio.sleep(_POLL_S)
