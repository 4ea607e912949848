"""A target that is a script: it serves one request at a time, or all at once, and can fail."""

import asyncio
from collections.abc import Mapping

from qllm.client.bench.errors import RequestFailed
from qllm.client.bench.load.target import Ask, Chunk, Ending, Stream, TargetFacts


class FakeTarget:
    """Answers `max_tokens` tokens, one every `step_s`, `num_slots` requests at a time.

    Attributes:
        failure: Every request fails with this kind, if it is given.
        asks: What was asked.
        num_closed: Streams that were left before their end.
    """

    def __init__(self, *, step_s: float = 0.001, num_slots: int = 1000, failure: str | None = None) -> None:
        self.step_s = step_s
        self.failure = failure
        self.asks: list[Ask] = []
        self.num_live = self.max_live = self.num_closed = 0
        self._slots = asyncio.Semaphore(num_slots)
        self._num_counted = 0

    async def prepare(self) -> TargetFacts:
        return TargetFacts("fake", "nowhere", "mini", 50, {})

    async def stream(self, ask: Ask) -> Stream:
        self.asks.append(ask)
        self.num_live += 1
        self.max_live = max(self.max_live, self.num_live)
        try:
            async with self._slots:
                for _ in range(ask.max_tokens):
                    await asyncio.sleep(self.step_s)
                    if self.failure is not None:
                        raise RequestFailed(self.failure, "it was asked to")
                    yield Chunk(1)
            yield Ending(ask.max_tokens, len(ask.prompt), 3.0)
        except (asyncio.CancelledError, GeneratorExit):
            self.num_closed += 1
            raise
        finally:
            self.num_live -= 1

    async def counters(self) -> Mapping[str, int]:
        self._num_counted += 5
        return {"num_commands": self._num_counted}

    async def close(self) -> None:
        pass
