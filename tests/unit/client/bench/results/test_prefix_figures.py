import asyncio

import pytest
from qllm.client.bench.commands.memory.prefix_run import Measuring
from qllm.client.bench.load.memory.asking import Answer
from qllm.client.bench.load.target import Ask, Ending, Stream
from qllm.client.bench.options.prefix import PrefixPart
from qllm.client.bench.results.answers import hit_percent, tell_cached

from tests.unit.client.bench.commands.memory.test_prefix import OPTIONS, Quiet
from tests.unit.client.bench.load.caching_target import CachingTarget


class TellsOnlyHits(CachingTarget):
    """Says how much was found in the cache only where that is something."""

    async def stream(self, ask: Ask) -> Stream:
        async for item in super().stream(ask):
            is_cold = isinstance(item, Ending) and not item.num_cached_tokens
            yield Ending(ask.max_tokens) if is_cold else item


def answer(num_cached_tokens: int | None) -> Answer:
    return Answer(0.1, 0.2, (), 50, num_cached_tokens)


def test_an_answer_without_a_number_had_nothing_in_the_cache_where_others_have_one() -> None:
    answers = [answer(None), answer(40)]
    assert tell_cached(answers)
    assert hit_percent(answers) == pytest.approx(40)
    assert not tell_cached([answer(None)])


async def test_a_server_that_tells_only_what_it_found_has_hit_rates_of_cold_requests_too() -> None:
    run = await Measuring(TellsOnlyHits(), OPTIONS, Quiet(), asyncio.Event()).run(list(PrefixPart))
    pairs, talks = run.turns[PrefixPart.REPEAT].by_label, run.turns[PrefixPart.TURNS].by_label
    assert [one["hit_percent"] for one in pairs["cold"]] == [0, 0, 0]
    assert all(one["hit_percent"] for one in [*pairs["repeated"], *talks["shared"]])
    assert [one["num_cached_tokens"] for one in talks["apart"]] == [0, 0]
