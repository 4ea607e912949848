"""A server under test that computes every prompt anew: each request has a salt of its own.

Without it a prompt that is asked twice, alone and then under load, would be found in the cache the second time: its
prefill could not be interrupted, and neither its tokens nor its times would be those of a prompt that is new.
"""

import itertools
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace

from qllm.client.bench.load.target import Ask, Stream, Target, TargetFacts


class ApartTarget:
    """Passes requests on, none of which is answered from what another left in the cache."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._salts = itertools.count()

    async def prepare(self) -> TargetFacts:
        """Finds out what is served.

        Raises:
            TargetFailed: The server cannot be measured.
        """
        return await self._target.prepare()

    async def stream(self, ask: Ask) -> Stream:
        """Streams one answer.

        Raises:
            RequestFailed: No complete answer came.
        """
        apart = replace(ask, cache_salt=f"{ask.cache_salt}#{next(self._salts)}")
        async with aclosing(self._target.stream(apart)) as stream:
            async for item in stream:
                yield item

    async def counters(self) -> Mapping[str, int]:
        """Returns the server's counters."""
        return await self._target.counters()

    async def close(self) -> None:
        """Gives the connections back."""
        await self._target.close()
