"""A target that keeps prompts, and tells how much of a prompt begins like one of the same salt."""

import itertools
from collections.abc import Mapping

from qllm.client.bench.load.target import Ask, Chunk, Ending, Stream, TargetFacts


class CachingTarget:
    """Answers 7, 8, 9, ... and keeps the K/V of prompts and answers, all of it at once.

    Attributes:
        asks: What was asked.
    """

    def __init__(self, *, tells_tokens: bool = True) -> None:
        self.asks: list[Ask] = []
        self._tells_tokens = tells_tokens
        self._kept: dict[str, list[list[int]]] = {}

    async def prepare(self) -> TargetFacts:
        return TargetFacts("fake", "nowhere", "mini", 50, {})

    async def stream(self, ask: Ask) -> Stream:
        assert isinstance(ask.prompt, list)
        self.asks.append(ask)
        kept = self._kept.setdefault(ask.cache_salt, [])
        common = max((_num_common(ask.prompt, one) for one in kept), default=0)
        answer = list(range(7, 7 + ask.max_tokens))
        for token_id in answer:
            yield Chunk(1, token_ids=(token_id,) if self._tells_tokens else ())
        kept.append([*ask.prompt, *answer])
        yield Ending(ask.max_tokens, len(ask.prompt), None, common)

    async def counters(self) -> Mapping[str, int]:
        return {}

    async def close(self) -> None:
        pass


def _num_common(one: list[int], other: list[int]) -> int:
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
