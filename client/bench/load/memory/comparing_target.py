"""A target whose answers are compared with those that the same prompts had before. Knows nothing of loads.

Prompts are few, so that each is asked alone first; every request has a salt of its own, also among those of all runs,
so that none is answered from what another one left in the cache.
"""

import itertools
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace

from qllm.client.bench.errors import RequestFailed, TargetFailed
from qllm.client.bench.load.prompts import PromptSource
from qllm.client.bench.load.target import Ask, Chunk, Ending, RunSalt, Stream, Target, TargetFacts
from qllm.client.messages import RequestClass

_Key = tuple[RequestClass, int, tuple[int, ...] | str]


@dataclass(frozen=True, slots=True)
class FewPrompts:
    """The first prompts of a source, again and again.

    Attributes:
        num_prompts: How many of each class.
    """

    source: PromptSource
    num_prompts: int

    def draw(self, request_class: RequestClass, index: int, num_tokens: int) -> str | list[int]:
        """Returns the class's prompt number `index`, which every `num_prompts`-th is the same as."""
        return self.source.draw(request_class, index % self.num_prompts, num_tokens)

    async def fit(self, target: Target, vocab_size: int) -> "FewPrompts":
        """Returns the source as it suits a server.

        Raises:
            RequestFailed: The server refused a prompt.
        """
        return replace(self, source=await self.source.fit(target, vocab_size))


class ComparingTarget:
    """Passes requests on, each with a salt of its own, and compares the tokens of their answers.

    Attributes:
        num_compared: Whole answers that were compared.
        num_different: Those that had other tokens than were learned.
        earliest_difference: The least index of a token that differed; None if none did.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._expected: dict[_Key, tuple[int, ...]] = {}
        self._run_salt = RunSalt()
        self._salts = itertools.count()
        self.num_compared = self.num_different = 0
        self.earliest_difference: int | None = None

    async def learn(self, ask: Ask) -> None:
        """Asks once, and expects the same tokens from now on.

        Raises:
            TargetFailed: The request failed.
        """
        token_ids: list[int] = []
        try:
            async with aclosing(self._target.stream(self._salted(ask))) as stream:
                async for item in stream:
                    token_ids += item.token_ids if isinstance(item, Chunk) else ()
        except RequestFailed as failure:
            raise TargetFailed(f"the idle server fails a request: {failure.kind}: {failure}", failure.kind) from failure
        self._expected[_key(ask)] = tuple(token_ids)

    async def prepare(self) -> TargetFacts:
        """Asks the target for its facts."""
        return await self._target.prepare()

    async def stream(self, ask: Ask) -> Stream:
        """Streams one generation, and compares it at its end if its prompt was learned."""
        token_ids: list[int] = []
        async with aclosing(self._target.stream(self._salted(ask))) as stream:
            async for item in stream:
                if isinstance(item, Ending):
                    self._compare(ask, tuple(token_ids))
                else:
                    token_ids += item.token_ids
                yield item

    async def counters(self) -> Mapping[str, int]:
        """Reads the target's counters."""
        return await self._target.counters()

    async def close(self) -> None:
        """Closes the target."""
        await self._target.close()

    def _salted(self, ask: Ask) -> Ask:
        return replace(ask, cache_salt=f"{self._run_salt.of(ask)}#{next(self._salts)}")

    def _compare(self, ask: Ask, token_ids: tuple[int, ...]) -> None:
        expected = self._expected.get(_key(ask))
        if expected is None:
            return
        self.num_compared += 1
        if token_ids == expected:
            return
        self.num_different += 1
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(token_ids, expected, strict=False))
        first = sum(1 for _ in same)
        self.earliest_difference = first if self.earliest_difference is None else min(first, self.earliest_difference)


def _key(ask: Ask) -> _Key:
    return ask.request_class, ask.max_tokens, ask.prompt if isinstance(ask.prompt, str) else tuple(ask.prompt)
