from collections.abc import Mapping

import pytest
from qllm.client.bench.errors import TargetFailed
from qllm.client.bench.load.memory.comparing_target import ComparingTarget, FewPrompts
from qllm.client.bench.load.prompts import PromptForm, Prompts
from qllm.client.bench.load.target import Ask, Chunk, Ending, Stream, TargetFacts
from qllm.client.bench.load.workload import BE, LS

from tests.unit.client.bench.fake_target import FakeTarget


class Scripted:
    """Answers with these tokens, whatever is asked."""

    def __init__(self) -> None:
        self.token_ids = (1, 2, 3)
        self.asks: list[Ask] = []

    async def prepare(self) -> TargetFacts:
        return TargetFacts("fake", "nowhere", "mini", 50, {})

    async def stream(self, ask: Ask) -> Stream:
        self.asks.append(ask)
        for token_id in self.token_ids:
            yield Chunk(1, token_ids=(token_id,))
        yield Ending(len(self.token_ids))

    async def counters(self) -> Mapping[str, int]:
        return {}

    async def close(self) -> None:
        pass


async def read(target: ComparingTarget, ask: Ask) -> None:
    async for _ in target.stream(ask):
        pass


async def test_an_answer_with_another_token_is_counted_with_where_it_differs() -> None:
    scripted = Scripted()
    target = ComparingTarget(scripted)
    await target.learn(Ask(BE, [7], 3))
    await read(target, Ask(BE, [7], 3, index=24))
    assert (target.num_compared, target.num_different, target.earliest_difference) == (1, 0, None)
    scripted.token_ids = (1, 2, 9)
    await read(target, Ask(BE, [7], 3))
    scripted.token_ids = (1,)
    await read(target, Ask(BE, [7], 3))
    assert (target.num_compared, target.num_different, target.earliest_difference) == (3, 2, 1)


async def test_what_was_not_learned_is_not_compared() -> None:
    target = ComparingTarget(Scripted())
    await target.learn(Ask(BE, [7], 3))
    for other in (Ask(BE, [8], 3), Ask(BE, [7], 2), Ask(LS, [7], 3)):
        await read(target, other)
    assert target.num_compared == 0


async def test_every_request_of_every_run_has_a_salt_of_its_own() -> None:
    scripted = Scripted()
    for _ in range(2):  # runs
        target = ComparingTarget(scripted)
        await target.learn(Ask(BE, [7], 3))
        for _ in range(3):
            await read(target, Ask(BE, [7], 3))
    assert len({ask.cache_salt for ask in scripted.asks}) == 8


async def test_a_server_that_fails_alone_cannot_be_measured_under_pressure() -> None:
    with pytest.raises(TargetFailed, match="the idle server fails a request: HTTP 500"):
        await ComparingTarget(FakeTarget(failure="HTTP 500")).learn(Ask(BE, [7], 3))


def test_few_prompts_come_again_and_again() -> None:
    prompts = FewPrompts(Prompts(PromptForm.TOKENS, 1000, 0), 3)
    drawn = [tuple(prompts.draw(BE, index, 20)) for index in range(6)]
    assert drawn[:3] == drawn[3:]
    assert len(set(drawn)) == 3
