"""Sends requests and notes what comes back. Decides neither what is asked nor what it means.

An open loop is never slowed down by the server: each request is a task of its own, sent at its time whether or not
others are answered, and its latencies count from that time.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing

from qllm.client.bench.errors import RequestFailed, TargetFailed
from qllm.client.bench.load.prompts import PromptSource
from qllm.client.bench.load.record import RequestRecord
from qllm.client.bench.load.target import Ask, Ending, Target
from qllm.client.bench.load.workload import Arrival, ClosedLoop, Crowd, Lengths, Source, Workload
from qllm.client.messages import RequestClass

TOO_MANY_IN_FLIGHT = "not sent: too many in flight"
_PAUSE_AFTER_FAILURE_S = 0.5  # lest a closed loop turn into a busy one against a server that refuses


class Load:
    """One load on one server.

    Args:
        max_in_flight: Open-loop requests beyond so many at a time are not sent, and count as failures.

    Attributes:
        records: All requests so far, in the order of sending.
        messages: One message for each kind of failure, the first that came.
    """

    def __init__(self, target: Target, prompts: PromptSource, *, max_in_flight: int) -> None:
        self._target = target
        self._prompts = prompts
        self._max_in_flight = max_in_flight
        self._loop = asyncio.get_running_loop()
        self._origin_s = self._loop.time()
        self.records: list[RequestRecord] = []
        self.messages: dict[str, str] = {}
        self.num_in_flight: Counter[RequestClass] = Counter()

    def now_s(self) -> float:
        """Returns the seconds since the load was made."""
        return self._loop.time() - self._origin_s

    async def run(self, workload: Workload, start_s: float) -> None:
        """Runs all sources from that time on, until it is cancelled; what is in flight then is given up.

        Raises:
            TargetFailed: The target said of a request that the load is to end.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for request_class, source in workload.items():
                    group.create_task(self._run_source(request_class, source, start_s))
        except ExceptionGroup as failures:
            if (ends := failures.subgroup(TargetFailed)) is None:
                raise
            raise first_of(ends) from None

    async def ask(
        self,
        request_class: RequestClass,
        index: int,
        lengths: Lengths,
        intended_s: float,
        prompt: str | list[int] | None = None,
    ) -> RequestRecord:
        """Sends one request and notes everything until its end; a failure is noted, not raised."""
        prompt = prompt or self._prompts.draw(request_class, index, lengths.num_prompt_tokens)
        record = RequestRecord(request_class, index, intended_s, lengths, self.now_s())
        self.records.append(record)
        self.num_in_flight[request_class] += 1
        try:
            await self._read(record, Ask(request_class, prompt, lengths.max_tokens, index))
        except RequestFailed as failure:
            self._note_failure(record, failure.kind, str(failure))
        except asyncio.CancelledError:
            record.give_up(self.now_s())
            raise
        finally:
            self.num_in_flight[request_class] -= 1
        return record

    async def _run_source(self, request_class: RequestClass, source: Source, start_s: float) -> None:
        if isinstance(source, Crowd):
            await self._crowd(request_class, source)
        elif isinstance(source, ClosedLoop):
            await self._closed_loop(request_class, source)
        else:
            await self._open_loop(request_class, source.arrivals(), start_s)

    async def _closed_loop(self, request_class: RequestClass, loop: ClosedLoop) -> None:
        indices = itertools.count()
        async with asyncio.TaskGroup() as group:
            for _ in range(loop.num_clients):
                group.create_task(self._one_client(request_class, loop.lengths, indices, loop.pause_s))

    async def _crowd(self, request_class: RequestClass, crowd: Crowd) -> None:
        """Keeps a task for each client that is to be there; the n-th one goes on while more than n are wanted."""
        indices = itertools.count()
        clients: dict[int, asyncio.Task[None]] = {}

        def while_wanted(client: int) -> Iterator[int]:
            return itertools.takewhile(lambda _: client < crowd.num_clients, indices)

        async with asyncio.TaskGroup() as group:
            while True:
                for client in range(crowd.num_clients):
                    if client not in clients or clients[client].done():
                        asking = self._one_client(request_class, crowd.lengths, while_wanted(client))
                        clients[client] = group.create_task(asking)
                await crowd.wait_for_another_size()

    async def _open_loop(self, request_class: RequestClass, arrivals: Iterator[Arrival], start_s: float) -> None:
        """Sends each request at its time. Its prompt is drawn before, so that drawing does not make it late."""
        async with asyncio.TaskGroup() as group:
            for index, arrival in enumerate(arrivals):
                prompt = self._prompts.draw(request_class, index, arrival.lengths.num_prompt_tokens)
                intended_s = start_s + arrival.at_s
                await asyncio.sleep(intended_s - self.now_s())
                if self.num_in_flight.total() >= self._max_in_flight:
                    self._refuse(request_class, index, arrival.lengths, intended_s)
                else:
                    group.create_task(self.ask(request_class, index, arrival.lengths, intended_s, prompt))

    async def _one_client(
        self, request_class: RequestClass, lengths: Lengths, indices: Iterator[int], pause_s: float = 0.0
    ) -> None:
        for index in indices:
            record = await self.ask(request_class, index, lengths, self.now_s())
            await asyncio.sleep(max(pause_s, _PAUSE_AFTER_FAILURE_S if record.is_failed else 0.0))

    async def _read(self, record: RequestRecord, ask: Ask) -> None:
        async with aclosing(self._target.stream(ask)) as stream:
            async for item in stream:
                if isinstance(item, Ending):
                    record.finish(item, self.now_s())
                else:
                    record.take(item, self.now_s())

    def _refuse(self, request_class: RequestClass, index: int, lengths: Lengths, intended_s: float) -> None:
        record = RequestRecord(request_class, index, intended_s, lengths, self.now_s())
        self.records.append(record)
        self._note_failure(record, TOO_MANY_IN_FLIGHT, f"{self._max_in_flight} requests were in flight")

    def _note_failure(self, record: RequestRecord, kind: str, message: str) -> None:
        record.fail(kind, self.now_s())
        self.messages.setdefault(kind, message)


def first_of(failure: Exception) -> Exception:
    """Returns the first failure inside nested groups."""
    while isinstance(failure, ExceptionGroup):
        failure = failure.exceptions[0]
    return failure
