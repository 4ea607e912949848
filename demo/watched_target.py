"""A server under test that is watched: a show hears of each request, and the tokens of whole answers are kept.

Wraps any target of the bench, which takes the times. One failed request ends the load: a demonstration
with a hole in it shows nothing.
"""

from collections.abc import Mapping
from contextlib import aclosing
from typing import Protocol

from qllm.client.bench.errors import RequestFailed, TargetFailed
from qllm.client.bench.load.target import Ask, Chunk, Stream, Target, TargetFacts
from qllm.client.bench.load.workload import CLASSES
from qllm.client.messages import RequestClass

Tokens = Mapping[int, tuple[int, ...]]
"""The tokens of whole answers, by the numbers of their requests."""


class Watcher(Protocol):
    """Hears of every request; changes nothing about it."""

    def sent(self, ask: Ask) -> None:
        """The request was sent."""

    def received(self, ask: Ask, chunk: Chunk) -> None:
        """Tokens of its answer came."""

    def ended(self, ask: Ask) -> None:
        """Its answer is complete."""


class WatchedTarget:
    """Asks another target, and tells a watcher."""

    def __init__(self, target: Target, watcher: Watcher) -> None:
        self._target = target
        self._watcher = watcher
        self._tokens: dict[RequestClass, dict[int, tuple[int, ...]]] = {name: {} for name in CLASSES}

    def tokens(self, request_class: RequestClass) -> Tokens:
        """Returns the whole answers to a class's prompts so far; those of warm-ups, below zero, are left out."""
        return {index: tokens for index, tokens in self._tokens[request_class].items() if index >= 0}

    async def prepare(self) -> TargetFacts:
        """Finds out what is served.

        Raises:
            TargetFailed: The server cannot be measured.
        """
        return await self._target.prepare()

    async def stream(self, ask: Ask) -> Stream:
        """Streams one answer.

        Raises:
            TargetFailed: No complete answer came.
        """
        token_ids: list[int] = []
        self._watcher.sent(ask)
        try:
            async with aclosing(self._target.stream(ask)) as stream:
                async for item in stream:
                    if isinstance(item, Chunk):
                        token_ids += item.token_ids
                        self._watcher.received(ask, item)
                    yield item
        except RequestFailed as failure:
            raise TargetFailed(f"a request failed: {failure.kind}: {failure}", failure.kind) from failure
        self._tokens[ask.request_class][ask.index] = tuple(token_ids)
        self._watcher.ended(ask)

    async def counters(self) -> Mapping[str, int]:
        """Returns the server's counters."""
        return await self._target.counters()

    async def close(self) -> None:
        """Gives the connections back."""
        await self._target.close()
