"""The order of events of measuring what sharing prefixes buys on one server: pairs, then loads in turns."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from qllm.client.bench.errors import RequestFailed, TargetFailed
from qllm.client.bench.load.memory.asking import Answer
from qllm.client.bench.load.memory.prefix_loads import PrefixLoads
from qllm.client.bench.load.prompts import DEFAULT_VOCAB_SIZE
from qllm.client.bench.load.run import Display, unless
from qllm.client.bench.load.target import Target, TargetFacts
from qllm.client.bench.options.prefix import PrefixOptions, PrefixPart
from qllm.client.bench.results.answers import tell_cached
from qllm.client.bench.results.prefix import load_figures, repeat_figures
from qllm.client.bench.results.turns import Turns

COLD, REPEATED = "cold", "repeated"
SHARED, APART = "shared", "apart"
_Measured = tuple[str, Sequence[Sequence[Answer]], float]
"""Which way, the answers of each conversation, and the seconds that all took."""
_Load = Callable[[PrefixLoads, int, bool], Awaitable[Sequence[Sequence[Answer]]]]


@dataclass(frozen=True, slots=True)
class PrefixRun:
    """What sharing prefixes came to on a server, by part."""

    facts: TargetFacts
    turns: dict[PrefixPart, Turns] = field(default_factory=dict)


class Measuring:
    """One server's measurement under way.

    Args:
        options: What is asked.
        display: Shows how far it is.
        stop: Ends it early once it is set.
    """

    def __init__(self, target: Target, options: PrefixOptions, display: Display, stop: asyncio.Event) -> None:
        self._target = target
        self._options = options
        self._display = display
        self._stop = stop

    async def run(self, parts: Sequence[PrefixPart]) -> PrefixRun:
        """Measures the parts; those that were not begun when `stop` was set are missing.

        Raises:
            TargetFailed: The server cannot be measured, or fails a request.
        """
        self._display.begin("warming up")
        try:
            facts = await self._target.prepare()
            vocab_size = self._options.vocab_size or facts.vocab_size or DEFAULT_VOCAB_SIZE
            loads = PrefixLoads(self._target, vocab_size, self._options.seed)
            await loads.repeat(self._options.own_tokens, self._options.own_tokens)
            run = PrefixRun(facts)
            for part in parts:
                if self._stop.is_set():
                    break
                turns = await self._measure(part, loads)
                if turns.by_label:
                    run.turns[part] = turns
        except RequestFailed as failure:
            raise TargetFailed(f"the server fails a request: {failure.kind}: {failure}", failure.kind) from failure
        return run

    async def _measure(self, part: PrefixPart, loads: PrefixLoads) -> Turns:
        if part is PrefixPart.REPEAT:
            return await self._pairs(loads)
        return await self._in_turns(part, loads, self._talk if part is PrefixPart.TURNS else self._share)

    async def _pairs(self, loads: PrefixLoads) -> Turns:
        pairs: list[tuple[Answer, Answer]] = []
        self._display.begin(f"{self._options.pairs} pairs")
        for _ in range(self._options.pairs):
            pair = await unless(self._stop, loads.repeat(self._options.prefix_tokens, self._options.own_tokens))
            if pair is None:
                break
            pairs.append(pair)
        turns, tells_cached = Turns(), tell_cached(answer for pair in pairs for answer in pair)
        for pair in pairs:
            for label, answer in zip((COLD, REPEATED), pair, strict=True):
                turns.add(label, repeat_figures(answer, tells_cached=tells_cached))
        return turns

    async def _in_turns(self, part: PrefixPart, loads: PrefixLoads, load: _Load) -> Turns:
        measured = [one async for one in self._loads_in_turns(part, loads, load)]
        tells_cached = tell_cached(answer for _, talks, _ in measured for talk in talks for answer in talk)
        turns = Turns()
        for way, talks, seconds in measured:
            turns.add(way, load_figures(talks, seconds, tells_cached=tells_cached))
        return turns

    async def _loads_in_turns(self, part: PrefixPart, loads: PrefixLoads, load: _Load) -> AsyncIterator[_Measured]:
        """Yields what each way came to, in turns, until all have had theirs or `stop` is set."""
        now_s = asyncio.get_running_loop().time
        for number in range(self._options.rounds):
            ways = (SHARED, APART) if self._options.apart else (SHARED,)
            for way in ways if number % 2 == 0 else reversed(ways):
                self._display.begin(f"{part}, {way}, round {number + 1} of {self._options.rounds}")
                began_s = now_s()
                answers = await unless(self._stop, _coroutine(load(loads, number, way == APART)))
                if answers is None:
                    return
                yield way, answers, now_s() - began_s

    async def _talk(self, loads: PrefixLoads, number: int, apart: bool) -> Sequence[Sequence[Answer]]:
        return await loads.talk(self._options.talk, number, apart=apart)

    async def _share(self, loads: PrefixLoads, number: int, apart: bool) -> Sequence[Sequence[Answer]]:
        return [[answer] for answer in await loads.share(self._options.system_prompt, number, apart=apart)]


async def _coroutine(work: Awaitable[Sequence[Sequence[Answer]]]) -> Sequence[Sequence[Answer]]:
    return await work
